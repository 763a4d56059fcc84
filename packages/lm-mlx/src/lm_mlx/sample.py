"""`lm_core.sampling.filtered` on the device, and the draw.

Axes: R rows, V vocabulary.
"""

import mlx.core as mx

from lm_core.sampling import SamplingConfig


def penalized(logits: mx.array, seen: mx.array, penalty: float) -> mx.array:
    """Logits [R, V] with those of the ids that are `seen`, bool [R, V], made smaller."""
    return mx.where(seen, mx.where(logits > 0, logits / penalty, logits * penalty), logits)


def probabilities(logits: mx.array, config: SamplingConfig) -> tuple[mx.array, mx.array]:
    """Logits [R, V] -> (probabilities from the largest on, their ids), without the ids behind top_k.

    The temperature is not 0.
    """
    scaled = (logits - logits.max(axis=-1, keepdims=True)) / config.temperature
    order = mx.argsort(-scaled, axis=-1)
    if config.top_k:
        order = order[:, : config.top_k]
    ranked = mx.softmax(mx.take_along_axis(scaled, order, axis=-1), axis=-1)
    keep = ranked >= config.min_p * ranked[:, :1]
    if config.top_p < 1:  # at 1 a rounded sum would cut the tail off
        keep = keep & (mx.cumsum(ranked, axis=-1) - ranked < config.top_p)
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
