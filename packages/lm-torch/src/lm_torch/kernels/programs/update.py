"""The update of all parameters by Adam or Kourkoutas-beta, each element of each tensor read and written once.

Tensors are named by their addresses, in tables of one row each; a program takes a block of one tensor, of one seed.

Axes: P parameters, K seeds that are trained together.
"""

import triton
import triton.language as tl

_COLUMNS = tl.constexpr(5)
"""Of the table of tensors: addresses of parameter, m, v, v_max and narrow copy; 0 where there is none."""


@triton.jit
def _note(table, a, b, c, d):
    tl.store(table, a)
    tl.store(table + 1, b)
    tl.store(table + 2, c)
    tl.store(table + 3, d)


@triton.jit(do_not_specialize=["first", *"abcdefghijklmnop"])
def note(table, first, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p):  # noqa: E741
    """table[first : first + 16] = the addresses of gradients, with a last bit of 1 where they are in bfloat16."""
    _note(table + first, a, b, c, d)
    _note(table + first + 4, e, f, g, h)
    _note(table + first + 8, i, j, k, l)
    _note(table + first + 12, m, n, o, p)


@triton.jit
def _at(address, first, ALIGNED: tl.constexpr, TYPE: tl.constexpr):
    """The element `first` of a tensor."""
    place = address.to(tl.pointer_type(TYPE)) + first
    if ALIGNED:  # so that a thread moves 16 bytes at once
        place = tl.multiple_of(place, 16)
    return place


@triton.jit
def _block(
    row, gradient, first, last, decay, scale, rest, root, tiny, lr, c1, new, eps, ratio, highest_decay,
    HIGHEST: tl.constexpr, CLIPPED: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, size = tl.arange(0, BLOCK), (last - first).to(tl.int32)
    if ALIGNED:
        size = tl.multiple_of(size, 8)
    inside = at < size
    grad_place = gradient & -2
    if gradient & 1:
        grad = tl.load(_at(grad_place, first, ALIGNED, tl.bfloat16) + at, mask=inside, other=0.0).to(tl.float32)
    else:
        grad = tl.load(_at(grad_place, first, ALIGNED, tl.float32) + at, mask=inside, other=0.0)
    grad *= scale
    p_place = _at(tl.load(row), first, ALIGNED, tl.float32) + at
    m_place = _at(tl.load(row + 1), first, ALIGNED, tl.float32) + at
    v_place = _at(tl.load(row + 2), first, ALIGNED, tl.float32) + at
    p = tl.load(p_place, mask=inside, other=0.0)
    m = tl.load(m_place, mask=inside, other=0.0)
    v = tl.load(v_place, mask=inside, other=0.0)
    p *= decay
    m += (grad - m) * new
    v += (grad * grad - v) * rest
    w = v
    if HIGHEST:
        w_place = _at(tl.load(row + 3), first, ALIGNED, tl.float32) + at
        w = tl.maximum(tl.load(w_place, mask=inside, other=0.0) * highest_decay, v)
        tl.store(w_place, w, mask=inside)
    delta = tl.div_rn(m, tl.div_rn(tl.sqrt_rn(w), root + tl.zeros_like(w)) + tiny + eps) * c1
    if CLIPPED:
        delta = tl.minimum(tl.maximum(delta, -ratio), ratio)
    p -= lr * delta
    tl.store(p_place, p, mask=inside)
    tl.store(m_place, m, mask=inside)
    tl.store(v_place, v, mask=inside)
    copy = tl.load(row + 4)
    if copy != 0:
        tl.store(_at(copy, first, ALIGNED, tl.bfloat16) + at, p.to(tl.bfloat16), mask=inside)


@triton.jit
def update(
    tensors, gradients, blocks, decays, scalars, scale, rest, root, tiny, count, new, eps, ratio, highest_decay,
    SCALED: tl.constexpr, TINY: tl.constexpr, HIGHEST: tl.constexpr, CLIPPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A step of all parameters. Grid: (blocks,).

    Args:
        tensors: [P, 5], addresses.
        gradients: [P], addresses, see `note`.
        blocks: [blocks, 5]: parameter, seed, first element, the one behind the last, whether all lie at 16 bytes.
        decays: [P], the weight decay of each.
        scalars: lr and c1 of the specification.
        scale: [K], what gradients are multiplied by, if SCALED.
        rest: [K, P], 1 - beta2.
        root: [K, P], the square root of c2.
        tiny: [K, P], what is added to eps, if TINY.
        count: P.
        new: 1 - beta1.
        eps: of the specification.
        ratio: to which the step of an element is clipped, if CLIPPED.
        highest_decay: of v_max, if HIGHEST.
    """
    blocks += tl.program_id(0) * 5
    parameter, seed = tl.load(blocks), tl.load(blocks + 1)
    first, last = tl.load(blocks + 2), tl.load(blocks + 3)
    gradient = tl.load(gradients + parameter)
    aligned = (tl.load(blocks + 4) != 0) & ((gradient & 14) == 0)
    place = seed * count + parameter
    factor, more = 1.0, 0.0
    if SCALED:
        factor = tl.load(scale + seed)
    if TINY:
        more = tl.load(tiny + place)
    lr, c1 = tl.load(scalars), tl.load(scalars + 1)
    decay = 1.0 - lr * tl.load(decays + parameter)
    row = tensors + parameter * _COLUMNS
    if aligned:
        _block(
            row, gradient, first, last, decay, factor, tl.load(rest + place), tl.load(root + place), more, lr, 1.0 / c1,
            new, eps, ratio, highest_decay, HIGHEST, CLIPPED, True, BLOCK,
        )  # fmt: skip
    else:
        _block(
            row, gradient, first, last, decay, factor, tl.load(rest + place), tl.load(root + place), more, lr, 1.0 / c1,
            new, eps, ratio, highest_decay, HIGHEST, CLIPPED, False, BLOCK,
        )  # fmt: skip
