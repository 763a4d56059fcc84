"""Testbed D: a character language model on which optimizers are compared.

Reading order: flags (what can be chosen) -> workload (what it means) -> cli (the run).
"""
