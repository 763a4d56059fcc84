"""A study of a trained model: what its heads attend to, what each is worth, and what each layer already knows.

    text --windows--> batches --Scorer.tap--> layers --sums, lens--> Study --archive--> npz
                      repeated random sequences --induction--------/     '--page--> HTML
                      weights without a head, score --ablation----/

Nothing here knows a framework: a backend gives the attention weights of some heads at a time, the rest is numpy.
docs/inside.md defines each score, with its source.

Axes: L layers, B batch, N heads, T queries, S keys, M tokens of a map.
"""
