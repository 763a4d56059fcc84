"""Measurements of the backends against plain loops, interleaved in one run.

Reading order: cases -> peers -> sides -> timing, statistics, memory -> step (the measurement) -> table -> cli.
Nothing here imports a framework until a measurement asks for it by name.
"""
