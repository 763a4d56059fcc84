"""Faults: training runs that are hurt on purpose, and what is left of them.

Reading order: trial (a run, and what is done to it) -> child, harm (the program) -> server (forks children) -> outcome
(what two runs differ in) -> bench (what rows share) -> the rows: steps, kills, traced saves, power, damage, poison,
places, forgeries -> campaign -> report.
"""
