"""The id that follows, from logits: the largest of each part of them, or one drawn from the first of all.

How they start, and how the largest of all is found: `decode`.

Axes: R rows, V vocabulary.
"""

import triton
import triton.language as tl

from lm_torch.kernels.programs.decode import begin


@triton.jit
def largest_parts(logits, most, ids, vocabulary, stride, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """Of each BLOCK of logits [R, V] the largest, and its id, the first of several: [R, parts]. Grid: (R, parts)."""
    row, block = tl.program_id(0), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    begin(EARLY)
    x = tl.load(logits + row * stride + at, mask=at < vocabulary, other=float("-inf"))
    highest = tl.max(x, 0)
    place = row * tl.num_programs(1) + block
    tl.store(most + place, highest)
    tl.store(ids + place, tl.min(tl.where((x == highest) & (at < vocabulary), at, 0x7FFFFFFF), 0))


@triton.jit
def pick(ranked, ids, uniforms, limits, chosen, count, CUT: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """`sample.draw` behind its top-k: of ranked logits and their ids [R, count], the id [R] at the uniform [R].

    limits [3] in float64, as all of it is: temperature, least share of the largest probability, and, if CUT, the
    sum in front of an id at which it is not kept. Grid: (R,).
    """
    row, place = tl.program_id(0), tl.arange(0, BLOCK)
    inside = place < count
    begin(EARLY)
    first = tl.load(ranked + row * count).to(tl.float64)
    x = tl.load(ranked + row * count + place, mask=inside, other=0.0).to(tl.float64)
    weights = tl.where(inside, tl.exp((x - first) / tl.load(limits)), 0.0)
    total = tl.sum(weights, 0)
    p = weights / total
    keep = p >= tl.load(limits + 1) / total
    if CUT:
        keep = keep & (tl.cumsum(p, 0) - p < tl.load(limits + 2))
    kept = tl.where((keep | (place == 0)) & inside, p, 0.0)
    kept = kept / tl.sum(kept, 0)
    passed = (tl.cumsum(kept, 0) <= tl.load(uniforms + row)) & inside
    last = tl.sum((kept > 0).to(tl.int32), 0) - 1
    rank = tl.minimum(tl.sum(passed.to(tl.int32), 0), last)
    tl.store(chosen + row, tl.load(ids + row * count + rank))
