"""The PyTorch backend.

Reading order: scratch -> layers -> attention, gradient_checkpointing, model -> optim -> snapshot, step (the trainer)
-> inference, decode -> backend. `fused` and `onednn` are `scratch` made fast. `lm_mlx` has the same files.
"""

import os

# torch reads it once: large arrays on the CPU then come in pages of 2 MB rather than being faulted in by 4 KB.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
if "RANK" in os.environ:  # what it warns of a rank that has gone is ten lines of addresses; this package says it in one
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
