"""`lm_core.sampling.filtered` on the device, and the draw.

Probabilities are float64, as in the reference, but on Metal, which has no float64.

Axes: R rows, V vocabulary.
"""

import math

import mlx.core as mx

from lm_core.config import SamplingConfig
from lm_core.sampling import ROUNDING


def wide_type() -> mx.Dtype:
    """The widest type that the default device has."""
    return mx.float32 if mx.default_device() == mx.Device(mx.gpu) else mx.float64


def penalized(logits: mx.array, seen: mx.array, penalty: float) -> mx.array:
    """Logits [R, V] with those of the ids that are `seen`, bool [R, V], made smaller, in the widest type."""
    wide = logits.astype(wide_type())
    return mx.where(seen, mx.where(wide > 0, wide / penalty, wide * penalty), wide)


def probabilities(logits: mx.array, config: SamplingConfig) -> tuple[mx.array, mx.array]:
    """Logits [R, V] -> (probabilities from the largest on, their ids), without the ids behind top_k.

    The temperature is not 0.
    """
    order = mx.argsort(-logits, axis=-1)
    if config.top_k:
        order = order[:, : config.top_k]
    ranked = mx.take_along_axis(logits, order, axis=-1).astype(wide_type())
    # A power, because MLX takes the exponential of a float64 to the digits of a float32.
    ranked = mx.power(mx.array(math.e, ranked.dtype), (ranked - ranked[:, :1]) / config.temperature)
    ranked = ranked / ranked.sum(axis=-1, keepdims=True)
    keep = ranked >= (1 - ROUNDING) * config.min_p * ranked[:, :1]
    if config.top_p < 1:  # at 1 nothing is cut off
        keep = keep & (mx.cumsum(ranked, axis=-1) - ranked < config.top_p - ROUNDING)
    keep = keep | (mx.arange(order.shape[1]) == 0)
    kept = ranked * keep
    return kept / kept.sum(axis=-1, keepdims=True), order


def draw(logits: mx.array, uniforms: mx.array, config: SamplingConfig) -> mx.array:
    """The id [R] at `uniforms` [R] of the inverse CDF of each row of filtered logits [R, V]."""
    if config.temperature == 0:
        return mx.argmax(logits, axis=-1)
    ranked, order = probabilities(logits, config)
    # Rounding may leave the sum below a uniform near 1: then the last id that is kept is meant.
    last = (ranked > 0).sum(axis=-1) - 1
    rank = mx.minimum((mx.cumsum(ranked, axis=-1) <= uniforms[:, None]).sum(axis=-1), last)
    return mx.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
