"""A training run: checkpoints, interrupts, log, loop."""
