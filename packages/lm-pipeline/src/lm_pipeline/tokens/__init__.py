"""Text to token files.

config (what can be chosen) -> job (what it means) -> encoding (the work) -> units (what survives a kill)

`tokenizers` are trained and found; `named` makes the token files of a named data set.
"""
