"""A small Transformer language model: train on a dataset, continue prompts.

Reading order: flags (what can be chosen) -> workload (what it means) -> save_folder (where the runs are) -> cli (the
run).
"""
