"""A matrix product that goes through GELU, or through its slope, on its way to memory.

A program takes tile after tile, and the loop over tiles is one with that over the depth of a product, so that the loads
of the next tile are under way while one is finished.

Axes: R rows, F feed-forward, D depth of the product.
"""

import os

import triton
import triton.language as tl

from lm_torch.kernels.programs.gelu import share_of, slope_of

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def _place(tile, down, across, GROUP: tl.constexpr):
    """Row and column of a tile: GROUP rows of tiles at a time, so that what they read stays in the cache."""
    group = tile // (GROUP * across)
    first = group * GROUP
    high = min(down - first, GROUP)
    return first + tile % high, tile % (GROUP * across) // high


@triton.jit
def _finish(
    product, bias, z, y, sums, row, column, width, BACKWARD: tl.constexpr, BIAS: tl.constexpr, TANH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """A tile, in so many parts of its columns one after the other, which takes less shared memory."""
    if PARTS == 1:
        _finish_part(product, bias, z, y, sums, row, column, width, BACKWARD, BIAS, TANH, ROWS, COLUMNS)
    else:
        WIDE: tl.constexpr = COLUMNS // 2
        left, right = tl.split(tl.permute(tl.reshape(product, (ROWS, 2, WIDE)), (0, 2, 1)))
        _finish(left, bias, z, y, sums, row, column, width, BACKWARD, BIAS, TANH, ROWS, WIDE, PARTS // 2)
        _finish(right, bias, z, y, sums, row, column + WIDE, width, BACKWARD, BIAS, TANH, ROWS, WIDE, PARTS // 2)


@triton.jit
def _finish_part(
    product, bias, z, y, sums, row, column, width, BACKWARD: tl.constexpr, BIAS: tl.constexpr, TANH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    columns = column + tl.arange(0, COLUMNS)
    shift = tl.zeros((COLUMNS,), tl.float32)
    if BIAS:
        shift = tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)
    if BACKWARD:
        x = z.load([row, column]).to(tl.float32) + shift[None, :]
        slope = product * slope_of(x, TANH)
        y.store([row, column], slope.to(y.dtype))
        if BIAS:
            tl.store(sums + row // ROWS * width + columns, tl.sum(slope, 0), mask=columns < width)
    else:
        narrow = product.to(z.dtype)
        z.store([row, column], narrow)
        x = narrow.to(tl.float32) + shift[None, :]
        y.store([row, column], (x * share_of(x, TANH)).to(y.dtype))


@triton.jit
def product(
    a, b, bias, z, y, sums, length, width,
    BACKWARD: tl.constexpr, BIAS: tl.constexpr, TANH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr, STEPS: tl.constexpr, GROUP: tl.constexpr, PARTS: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """z = a b^T, y = GELU(z + bias); backward, y = a b GELU'(z + bias), and its sums over the rows of each tile.

    a [R, D], b [F, D], or backward [D, F], z and y [R, F] are descriptors; sums [ceil(R / ROWS), F]; STEPS of DEPTH are
    D. (A constant: of a loop that may be empty the compiler would make two versions.) Grid: (PROGRAMS,).
    """
    down, across = tl.cdiv(length, ROWS), tl.cdiv(width, COLUMNS)
    finished = tl.program_id(0) - PROGRAMS
    for tile in tl.range(tl.program_id(0), down * across, PROGRAMS, flatten=True):
        i, j = _place(tile, down, across, GROUP)
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for step in range(STEPS):
            left = a.load([i * ROWS, step * DEPTH])
            if BACKWARD:
                right = b.load([step * DEPTH, j * COLUMNS])
            else:
                right = b.load([j * COLUMNS, step * DEPTH]).T
            if _INTERPRETED:  # numpy has no bfloat16
                left, right = left.to(tl.float32), right.to(tl.float32)
            total = tl.dot(left, right, total)
        # Computed again rather than kept over the loop, which is pipelined.
        finished += PROGRAMS
        i, j = _place(finished, down, across, GROUP)
        _finish(
            total, bias, z, y, sums, i * ROWS, j * COLUMNS, width, BACKWARD, BIAS, TANH, ROWS, COLUMNS, PARTS
        )  # fmt: skip
