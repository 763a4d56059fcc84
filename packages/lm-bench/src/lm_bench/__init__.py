"""Measurements of the backends against plain loops, and of the tokenizer against others, interleaved in one run.

Reading order: cases -> peers -> sides -> timing, statistics, memory -> step (the measurement) -> table -> cli.
The tokenizer's have a folder of their own, and `corpora` makes texts for them.
Nothing here imports a framework until a measurement asks for it by name.
"""
