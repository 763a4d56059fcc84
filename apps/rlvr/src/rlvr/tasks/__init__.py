"""Tasks whose answers a program checks.

Reading order: task (what one is) -> strings, arithmetic, countdown, brackets -> reward -> registry.
"""
