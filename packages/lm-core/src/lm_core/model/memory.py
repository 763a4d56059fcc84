"""The least memory that training or decoding needs, from the configs alone.

    weights + optimizer + max(gradients, activations + logits)          of training, at the end of the forward pass

Every figure is a lower bound, for a run that would fit must not be refused: of the activations only those are counted
that no framework can do without, and nothing for its buffers, copies and fragments.

Axes: B rows, T time, D model, N heads, K kv heads, H head, F feed-forward, V vocabulary.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, fields

from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.errors import MemoryFullError, UserError
from lm_core.model.parameters import parameter_table
from lm_core.optim import state_shapes

FLOAT32 = 4
LOGITS_BYTES = 1 << 26
"""Bytes of the logits that a fused loss holds at a time, on both backends."""


@dataclass(frozen=True)
class Memory:
    """Bytes of each part, that are there at the same time."""

    weights: int = 0
    optimizer: int = 0
    gradients: int = 0
    activations: int = 0
    logits: int = 0
    cache: int = 0

    @property
    def total(self) -> int:
        """Bytes of all."""
        return sum(getattr(self, part.name) for part in fields(self))


def training_memory(
    model: ModelConfig, optimizer: OptimizerConfig, step: StepConfig, rows: int, length: int, ranks: int = 1
) -> Memory:
    """The least that a training step on rows of `length` tokens holds, on each of the ranks that share it.

    In float32 but for the activations.
    """
    rows = -(-rows // (step.grad_accum_steps * ranks))
    weights, state = (size // (ranks if step.parallel == "fsdp" else 1) for size in _sizes(model, optimizer))
    activations = _activations(model, step, rows, length)
    logits = FLOAT32 * rows * length * model.vocab_size
    if step.kernels == "fused":
        logits = min(logits, LOGITS_BYTES)
    if step.grad_accum_steps > 1:  # the gradients of earlier micro-batches are there
        return Memory(FLOAT32 * weights, FLOAT32 * state, FLOAT32 * weights, activations, logits)
    # The backward pass frees activations while it makes gradients.
    if activations + logits > FLOAT32 * weights:
        return Memory(FLOAT32 * weights, FLOAT32 * state, 0, activations, logits)
    return Memory(FLOAT32 * weights, FLOAT32 * state, FLOAT32 * weights)


def decoding_memory(model: ModelConfig, step: StepConfig, rows: int) -> Memory:
    """The least that a decoder of `rows` texts holds."""
    cache = 2 * _width(step) * rows * model.n_layers * model.kv_heads * model.head_dim * model.seq_len
    return Memory(weights=FLOAT32 * _sizes(model)[0], cache=cache)


def largest_batch(
    model: ModelConfig, optimizer: OptimizerConfig, step: StepConfig, length: int, available: int, ranks: int = 1
) -> int:
    """The most rows of `length` tokens for which `training_memory` does not exceed what is available; 0 for none."""
    parts = step.grad_accum_steps * ranks

    def fits(rows: int) -> bool:
        return training_memory(model, optimizer, step, rows * parts, length, ranks).total <= available

    most = 1
    while fits(most):
        most *= 2
    return parts * (bisect_left(range(1, most + 1), True, key=lambda rows: not fits(rows)))


def check_memory(needed: Memory, available: int | None, what: str, advice: Callable[[], str] | None = None) -> None:
    """Refuse what cannot fit.

    Args:
        needed: at the least.
        available: bytes of the device; None if not known.
        what: has to fit: "training", "decoding".
        advice: what to do about it, where more is known than the parts.

    Raises:
        UserError: with the parts, and what to do about it.
    """
    if available is None or needed.total <= available:
        return
    parts = {part.name: getattr(needed, part.name) for part in fields(needed)}
    by_batch = needed.activations + needed.logits + needed.cache
    lower = (
        "lower the batch size or the sequence length"
        if 2 * (needed.total - by_batch) < min(needed.total, 2 * available)
        else "lower the model's width, layers or vocabulary"
    )
    said = ", ".join(f"{name} {readable(size)}" for name, size in parts.items() if size)
    raise UserError(
        f"{what} needs at least {readable(needed.total)} of memory ({said}), and the device has {readable(available)}:"
        f" {advice() if advice else lower}"
    ) from MemoryFullError()  # the cause tells it from other mistakes


def _sizes(model: ModelConfig, optimizer: OptimizerConfig | None = None) -> tuple[int, int]:
    """Elements of the weights and of the optimizer's state; no table of very many layers is made for it."""
    one, two = (_sizes_of(model.model_copy(update={"n_layers": layers}), optimizer) for layers in (1, 2))
    weights, state = (a + (model.n_layers - 1) * (b - a) for a, b in zip(one, two, strict=True))
    return weights, state


def _sizes_of(model: ModelConfig, optimizer: OptimizerConfig | None) -> tuple[int, int]:
    table = parameter_table(model)
    weights = sum(parameter.size for parameter in table.values())
    if optimizer is None:
        return weights, 0
    arrays = [name.partition(".") for name, shape in state_shapes(optimizer, table).items() if shape]
    return weights, sum(table[name].size for _, _, name in arrays)


def _activations(model: ModelConfig, step: StepConfig, rows: int, length: int) -> int:
    """Bytes stored for the backward pass: the input of each block alone, or the input of each of its products."""
    c = model
    gated = 2 if c.mlp == "swiglu" else 1
    # The residual stream twice, q, what attention gives; k and v; what comes out of the products up (and gate).
    block = _width(step) * rows * length * (4 * c.d_model + 2 * c.kv_heads * c.head_dim + gated * c.ff_dim)
    weights = rows * c.n_heads * length * length
    if step.kernels == "scratch":
        block += FLOAT32 * weights
    elif c.dropout:  # whether each attention weight stays, in a bit, as on a GPU
        block += weights // 8
    if not step.gradient_checkpointing:
        return block * c.n_layers
    again = -(-c.n_layers // step.gradient_checkpointing_every)
    # One of them at a time is made again, beside what the others hold.
    return _width(step) * rows * length * c.d_model * again + block * (c.n_layers - again + 1)


def _width(step: StepConfig) -> int:
    return FLOAT32 if step.dtype == "float32" else 2


def readable(size: int) -> str:
    """Bytes in KiB, MiB or GiB."""
    if size >= 1 << 30:
        return f"{size / 2**30:,.1f} GiB"
    return f"{size / 2**20:,.0f} MiB" if size >= 1 << 20 else f"{size / 2**10:,.1f} KiB"
