"""Cases to train, in a size that the device is for; nanogpt-char and gpt2-124m as nanoGPT's configs train them."""

from dataclasses import replace

from lm_bench.cases import CASES, Case
from lm_core.config import AdamWConfig, ModelConfig
from lm_core.errors import UserError

GRAD_CLIP = 1.0
WEIGHT_DECAY = 0.1

GPT2_124M = ModelConfig(
    vocab_size=50257,
    seq_len=1024,
    d_model=768,
    n_layers=12,
    n_heads=12,
    mlp="gelu_tanh",
    tie_embeddings=True,
    depth_scaled_init=True,
)
PADDED_VOCAB = 50304
"""A multiple of 128, which the matrix units of a GPU like (nanoGPT's model.py)."""


def nanogpt_adamw(beta2: float) -> AdamWConfig:
    """nanoGPT decays what has two axes, the embeddings with them."""
    return AdamWConfig(beta2=beta2, weight_decay=WEIGHT_DECAY, decay_groups=("matrix", "embed"), grad_clip=GRAD_CLIP)


def workload(name: str, device: str, batch_size: int = 0, length: int = 0) -> Case:
    """A case on "cpu" or "cuda"; 0 is its own batch size and length.

    Raises:
        UserError: when the model does not take rows of that length.
    """
    # A tenth of nanoGPT's rate for 124 M: at the full one and without its warm-up the loss rises, and rounding with it.
    if name == "nanogpt-char":
        case = replace(CASES[name], optimizer=nanogpt_adamw(0.99))
    elif name in CASES:
        case = CASES[name]
    elif device == "cuda":
        model = GPT2_124M.model_copy(update={"vocab_size": PADDED_VOCAB})
        case = Case(name, model, nanogpt_adamw(0.95), batch_size=16, lr=6e-5)
    else:
        case = Case(name, GPT2_124M, nanogpt_adamw(0.95), batch_size=1, lr=6e-5, window=256)
    if length > case.model.seq_len:
        raise UserError(f"--seq_len {length} is more than the {case.model.seq_len} tokens that {name} takes")
    return replace(case, batch_size=batch_size or case.batch_size, window=length or case.window)


def block_steps(name: str, device: str) -> int:
    """Steps in a block that lasts about a second."""
    return 1 if is_large(name) and device == "cpu" else 20


def is_large(name: str) -> bool:
    """Whether a step takes seconds on a CPU."""
    return name in ("gpt2-124m", "blocks12")
