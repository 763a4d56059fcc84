"""The PyTorch backend.

Reading order: layers -> model -> optim -> step (the trainer) -> decode -> backend. `lm_mlx` has the same files.
"""
