"""The PyTorch backend.

Reading order: scratch -> layers -> attention, gradient_checkpointing, model -> optim -> snapshot, step (the trainer)
-> inference, decode -> backend. `fused` and `onednn` are `scratch` made fast. `lm_mlx` has the same files.
"""

import os

# torch reads it once: large arrays on the CPU then come in pages of 2 MB rather than being faulted in by 4 KB.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
