"""GELU of a product and its bias, and back, with the bias's gradient from partial sums."""

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_PHI_0 = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi)
_RATE = tl.constexpr(1.5957691216057308)  # 2 sqrt(2 / pi)
_CUBIC = tl.constexpr(0.044715)


@triton.jit
def share_of(z, TANH: tl.constexpr):
    """GELU(z) / z: (1 + tanh u) / 2, which is the logistic of 2u, or Phi(z)."""
    if TANH:
        share = 1.0 / (1.0 + tl.exp2((z + z * z * z * _CUBIC) * -(_RATE * _LOG2_E)))
    else:
        share = 0.5 * (1.0 + tl.erf(z * _SQRT_HALF))
    return share


@triton.jit
def slope_of(z, TANH: tl.constexpr):
    """The derivative of GELU at z."""
    share = share_of(z, TANH)
    if TANH:
        bend = z * share * (1.0 - share) * (1.0 + z * z * (3.0 * _CUBIC)) * _RATE
    else:
        bend = z * tl.exp2(z * z * (-0.5 * _LOG2_E)) * _PHI_0
    return share + bend


@triton.jit
def forward(
    x, bias, y, length, width, BIAS: tl.constexpr, TANH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """y = GELU(x + bias), [rows, F]. Grid: (ceil(rows / ROWS), ceil(F / COLUMNS))."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (rows < length)[:, None] & (columns < width)[None, :]
    at = rows.to(tl.int64)[:, None] * width + columns[None, :]
    z = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        z += tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    tl.store(y + at, (z * share_of(z, TANH)).to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    dy, x, bias, dx, sums, length, width, tiles,
    BIAS: tl.constexpr, TANH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dx [rows, F], and its sums over the rows of a program, [programs, F]. A program takes `tiles` tiles of ROWS rows.
    Grid: (programs, ceil(F / COLUMNS))."""
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    shift = tl.zeros((1, COLUMNS), tl.float32)
    if BIAS:
        shift = tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    first = tl.program_id(0) * tiles
    for tile in range(first, first + tiles):
        rows = tile * ROWS + tl.arange(0, ROWS)
        inside = (rows < length)[:, None] & (columns < width)[None, :]
        at = rows.to(tl.int64)[:, None] * width + columns[None, :]
        z = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + shift
        slope = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32) * slope_of(z, TANH)
        tl.store(dx + at, slope.to(dx.dtype.element_ty), mask=inside)
        total += slope
    if BIAS:
        tl.store(sums + tl.program_id(0) * width + columns, tl.sum(total, 0), mask=columns < width)
