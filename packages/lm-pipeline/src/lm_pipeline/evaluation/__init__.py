"""How well a saved model predicts a text: tokens --windows--> marks of each target --totals--> figures."""
