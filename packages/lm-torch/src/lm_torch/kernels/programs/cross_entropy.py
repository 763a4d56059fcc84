"""The loss of each row of logits, and the gradient of the logits in their place."""

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def softmax_cross_entropy(
    logits, targets, scales, losses, vocabulary, stride,
    DIFFERENTIATED: tl.constexpr, SCALED: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Losses [rows] in nats, and logits [rows, V] <- (softmax - onehot) scale, if DIFFERENTIATED. Grid: (rows,).

    A program goes over its row twice; the second time it lies in the cache. A tile is [HIGH, WIDE], with neighbours
    along WIDE in neighbouring threads, so that going down it needs no exchange: each column has its largest and sum.
    """
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    target = tl.load(targets + row).to(tl.int32)
    chosen = tl.load(logits + target).to(tl.float32) * _LOG2_E
    cells = tl.arange(0, HIGH)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    largest = tl.full((WIDE,), float("-inf"), tl.float32)
    total = tl.zeros((WIDE,), tl.float32)
    for start in range(0, vocabulary, HIGH * WIDE):
        inside = cells < vocabulary - start
        x = tl.load(logits + start + cells, mask=inside, other=0.0).to(tl.float32) * _LOG2_E
        x = tl.where(inside, x, float("-inf"))
        larger = tl.maximum(largest, tl.max(x, 0))
        base = tl.where(larger == float("-inf"), 0.0, larger)  # a column of a vocabulary smaller than a tile
        total = total * tl.exp2(largest - base) + tl.sum(tl.exp2(x - base[None, :]), 0)
        largest = larger
    highest = tl.max(largest, 0)
    log_sum = highest + tl.log2(tl.sum(total * tl.exp2(largest - highest), 0))
    tl.store(losses + row, (log_sum - chosen) * _LN_2)
    if DIFFERENTIATED:
        scale = 1.0
        if SCALED:
            scale = tl.load(scales + row)
        for start in range(0, vocabulary, HIGH * WIDE):
            inside = cells < vocabulary - start
            x = tl.load(logits + start + cells, mask=inside, other=0.0).to(tl.float32) * _LOG2_E
            slope = tl.exp2(x - log_sum)
            slope = tl.where(start + cells == target, slope - 1.0, slope)
            tl.store(logits + start + cells, (slope * scale).to(logits.dtype.element_ty), mask=inside)
