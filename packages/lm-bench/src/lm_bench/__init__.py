"""Measurements of the backends against plain loops, and of the tokenizer against others, interleaved in one run.

Reading order: cases -> peers -> sides -> timing, statistics, memory -> step (the measurement) -> table -> cli.
`train`, `infer` and `tokenizer` have a folder each; they share `rounds` and `peak`. `corpora` makes texts.
Nothing here imports a framework until a measurement asks for it by name.
"""
