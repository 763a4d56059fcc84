"""Gradients of queries, keys and values side by side, and their sums over all tokens."""

import triton
import triton.language as tl


@triton.jit
def join(
    q, k, v, joined, sums, heads, kv_heads, time, length, width, tiles,
    q_row, q_head, q_time, k_row, k_head, k_time, v_row, v_head, v_time,
    H: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """joined [B T, (N + 2 K) H] = q [B, N, T, H], k and v [B, K, T, H]; sums over a program's rows, [programs, ..].

    A program takes `tiles` tiles of ROWS rows. Grid: (programs, ceil(width / COLUMNS)).
    """
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    kept, head, h = column < width, column // H, column % H
    is_q, is_k = head < heads, head < heads + kv_heads
    kv_head = tl.where(is_k, head - heads, head - heads - kv_heads)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    first = tl.program_id(0) * tiles
    for tile in range(first, first + tiles):
        row = tile * ROWS + tl.arange(0, ROWS)
        inside = (row < length)[:, None] & kept[None, :]
        b, t = (row // time).to(tl.int64)[:, None], (row % time).to(tl.int64)[:, None]
        at_q = b * q_row + t * q_time + (head * q_head + h)[None, :]
        at_k = b * k_row + t * k_time + (kv_head * k_head + h)[None, :]
        at_v = b * v_row + t * v_time + (kv_head * v_head + h)[None, :]
        x = tl.load(q + at_q, mask=inside & is_q[None, :], other=0.0).to(tl.float32)
        x += tl.load(k + at_k, mask=inside & (is_k & ~is_q)[None, :], other=0.0).to(tl.float32)
        x += tl.load(v + at_v, mask=inside & ~is_k[None, :], other=0.0).to(tl.float32)
        at = row.to(tl.int64)[:, None] * width + column[None, :]
        tl.store(joined + at, x.to(joined.dtype.element_ty), mask=inside)
        total += x
    tl.store(sums + tl.program_id(0) * width + column, tl.sum(total, 0), mask=kept)
