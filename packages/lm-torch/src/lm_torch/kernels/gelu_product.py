"""An MLP whose GELU, and its slope on the way back, are done by the products beside them, on their way to memory.

    x --up--> z --GELU--> y --down-->      one product writes z and y
    dz <--GELU'(z)-- <--down-- dy          one product reads z and writes dz, and sums it for the bias's gradient

cuBLAS multiplies faster, but then each of z, y, dz is moved through memory once more. What is faster is timed
(`fastest`): a kernel of `programs.gelu_product`, by several tiles, or a product and a kernel of `gelu`.

Axes: R rows, D model, F feed-forward.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_torch import kernels
from lm_torch.kernels.fastest import Way, by_the_fastest
from lm_torch.kernels.gelu import bias_gelu_backward_of, bias_gelu_of


class Tiles(NamedTuple):
    """How a product is cut up."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    """Loads under way at a time."""
    parts: int
    """In which a tile is finished."""
    each: int
    """Programs on a multiprocessor: with two, one multiplies while the other finishes."""


FORWARD = Tiles(128, 128, 64, 4, 3, 2, 2), Tiles(128, 128, 64, 8, 3, 2, 2)
BACKWARD = Tiles(128, 128, 32, 4, 4, 2, 2), Tiles(128, 128, 64, 4, 3, 4, 2), Tiles(128, 256, 64, 8, 3, 2, 1)
"""On an H100 the first of each is the fastest from 16,384 rows of d 768 on; the others are for fewer."""
GROUP = 8
"""Rows of tiles that are taken together."""
FIXED: tuple[Tiles | None, Tiles | None] = FORWARD[0], BACKWARD[0]
"""Tiles forward and back that are taken untimed where a fixed order is asked for; None: the product and the kernel."""
LEAST = 2e10
"""Floating-point operations of a product below which launching costs as much as there is to win."""
USED = True
"""False: never."""


def usable(x: Tensor, up: Tensor, down: Tensor) -> bool:
    """Whether an MLP may go this way: in bfloat16, large, rows that a tensor descriptor takes, on Hopper or later."""
    if not USED or not x.dtype == up.dtype == down.dtype == torch.bfloat16 or up.ndim != 2:
        return False
    if up.shape[0] % 8 or up.shape[1] % 8 or down.shape[0] != up.shape[1] or x.numel() * up.shape[0] * 2 < LEAST:
        return False
    return not x.is_cuda or torch.cuda.get_device_properties(x.device).major >= 9


def mlp(x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, tanh: bool) -> Tensor:
    """See `scratch.gelu_mlp`."""
    y, _, _ = torch.ops.lm_torch.gelu_mlp(x.reshape(-1, x.shape[-1]), up, up_bias, down, down_bias, tanh)
    whole: Tensor = y.view(x.shape)
    return whole


# One operator with a gradient of its own, not an autograd.Function: gradient checkpointing under the compiler runs
# operators again, and keeps what a Function saves.
@torch.library.custom_op("lm_torch::gelu_mlp", mutates_args=())
def _gelu_mlp(
    x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, tanh: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The MLP of x [R, D], with z = x up^T and GELU(z + up_bias), which its gradient takes: [R, D] and twice [R, F]."""
    z, hidden = _up(x.contiguous(), up.contiguous(), up_bias, tanh)
    return F.linear(hidden, down, down_bias), z, hidden


@_gelu_mlp.register_fake
def _empty_mlp(
    x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, tanh: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape[0], down.shape[0]), *_empty_pair(x, up)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.tanh = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dout: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    kernels.refuse_second_derivative()
    x, up, up_bias, down, down_bias, z, hidden = ctx.saved_tensors
    dz, dup_bias = torch.ops.lm_torch.product_gelu_backward(dout, down, z, up_bias, ctx.tanh)
    return (
        dz @ up,
        dz.t() @ x,
        None if up_bias is None else dup_bias,
        dout.t() @ hidden,
        None if down_bias is None else dout.sum(dim=0),
        None,
    )


_gelu_mlp.register_autograd(_gradients, setup_context=_keep)


def _up(x: Tensor, up: Tensor, bias: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    """z = x up^T and GELU(z + bias): x [R, D], up [F, D] -> [R, F] twice."""
    ways: dict[str, Way] = {"a product and a kernel": partial(_plain, x, up, bias, tanh)}
    ways |= {_name(tiles): partial(_own, x, up, bias, tanh, tiles) for tiles in FORWARD}
    found: tuple[Tensor, Tensor] = by_the_fastest(
        *_what("GELU of a product", x, up.shape[0], bias, tanh), ways, _fixed(FIXED[0])
    )
    return found


def _empty_pair(x: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], up.shape[0]), x.new_empty(x.shape[0], up.shape[0])


@torch.library.custom_op("lm_torch::product_gelu_backward", mutates_args=())
def _product_gelu_backward(
    dy: Tensor, down: Tensor, z: Tensor, bias: Tensor | None, tanh: bool
) -> tuple[Tensor, Tensor]:
    """dz = (dy down) GELU'(z + bias), and its sums: dy [R, D], down [D, F] -> [R, F] and [F]."""
    dy, down = dy.contiguous(), down.contiguous()
    ways: dict[str, Way] = {"a product and a kernel": partial(_plain_backward, dy, down, z, bias, tanh)}
    ways |= {_name(tiles): partial(_own_backward, dy, down, z, bias, tanh, tiles) for tiles in BACKWARD}
    found: tuple[Tensor, Tensor] = by_the_fastest(
        *_what("product times the slope of GELU", dy, down.shape[1], bias, tanh), ways, _fixed(FIXED[1])
    )
    return found


@_product_gelu_backward.register_fake
def _empty_gradients(dy: Tensor, down: Tensor, z: Tensor, bias: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(z), z.new_empty(0) if bias is None else torch.empty_like(bias)


def _what(name: str, x: Tensor, width: int, bias: Tensor | None, tanh: bool) -> tuple[str, tuple[Any, ...]]:
    """What is reported, and what decides how fast the ways are: rows of about that number."""
    rows, depth = x.shape
    size = rows.bit_length()
    return f"{name}, {rows:,} x {depth} x {width}", (name, size, depth, width, bias is None, tanh, x.device)


def _name(tiles: Tiles) -> str:
    return f"{tiles.rows} x {tiles.columns} by {tiles.warps} warps"


def _fixed(tiles: Tiles | None) -> str | None:
    return None if tiles is None else _name(tiles)


def _plain(x: Tensor, up: Tensor, bias: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    z = torch.mm(x, up.t())
    return z, bias_gelu_of(z, bias, tanh)


def _plain_backward(dy: Tensor, down: Tensor, z: Tensor, bias: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    return bias_gelu_backward_of(torch.mm(dy, down), z, bias, tanh)


def _own(x: Tensor, up: Tensor, bias: Tensor | None, tanh: bool, tiles: Tiles) -> tuple[Tensor, Tensor]:
    z, y = _empty_pair(x, up)
    _launch(x, up, bias, z, y, None, tanh, tiles)
    return z, y


def _own_backward(
    dy: Tensor, down: Tensor, z: Tensor, bias: Tensor | None, tanh: bool, tiles: Tiles
) -> tuple[Tensor, Tensor]:
    dz = torch.empty_like(z)
    sums = dz.new_empty(-(-len(z) // tiles.rows), z.shape[1], dtype=torch.float32)
    _launch(dy, down, bias, z, dz, sums, tanh, tiles)
    return dz, z.new_empty(0) if bias is None else sums.sum(dim=0).to(bias.dtype)


def _launch(
    a: Tensor, b: Tensor, bias: Tensor | None, z: Tensor, y: Tensor, sums: Tensor | None, tanh: bool, tiles: Tiles
) -> None:
    from triton.tools.tensor_descriptor import TensorDescriptor

    from lm_torch.kernels.programs import gelu_product as programs

    (rows, depth), width = a.shape, z.shape[1]
    count = tiles.each * _multiprocessors(a.device)
    finished = [tiles.rows, tiles.columns // tiles.parts]
    of_b = [tiles.columns, tiles.depth] if sums is None else [tiles.depth, tiles.columns]
    programs.product[(count,)](
        TensorDescriptor.from_tensor(a, [tiles.rows, tiles.depth]), TensorDescriptor.from_tensor(b, of_b), bias,
        TensorDescriptor.from_tensor(z, finished), TensorDescriptor.from_tensor(y, finished), sums, rows, width,
        BACKWARD=sums is not None, BIAS=bias is not None, TANH=tanh, ROWS=tiles.rows, COLUMNS=tiles.columns,
        DEPTH=tiles.depth, STEPS=-(-depth // tiles.depth), GROUP=GROUP, PARTS=tiles.parts, PROGRAMS=count,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
