"""Reinforcement learning with verifiable rewards: tasks whose answers a program checks, and a model trained on them.

Reading order: tasks (problems, checkers, rewards) -> vocabulary -> demonstrations, pretrain -> train -> evaluate, play.
"""
