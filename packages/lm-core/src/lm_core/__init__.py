"""The framework-free half: everything about a training run that is not tensor mathematics.

Reading order: config -> schedules -> data -> model -> optim -> backend -> reference -> run -> report.
Nothing here imports torch, mlx or a sibling package; a backend is found by name when a run asks for one.
"""
