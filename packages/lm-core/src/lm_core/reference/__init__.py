"""The oracle: model, loss and optimizers in plain float64 numpy, written for reading, not for speed."""
