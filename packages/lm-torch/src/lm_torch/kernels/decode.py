"""The step of decoding by kernels of this project's own, for few rows: see `programs.decode`.

Its twin is `InferenceModel.logits` with an offset for each row; the tests hold them together.

Axes: R rows, D model, F feed-forward, N heads, K kv heads, H head, S cached time, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from lm_core.config import SamplingConfig
from lm_core.sampling import ROUNDING
from lm_torch import fused, kernels
from lm_torch.attention import angles_at
from lm_torch.inference import InferenceModel, KVCache, Norm, Projection
from lm_torch.sample import draw, largest

MOST_ROWS = 8
"""What the matrix units take of rows of text at once."""
UNIT_OUTS = 16
"""Rows of a matrix that they take."""
UNIT_WIDE = 128
UNIT_COLUMNS = 1024
"""Elements of a vector up to which a program holds so many rows of a matrix: of 3,072 it takes a whole multiprocessor,
and cannot begin early."""
INT8_UNIT_COLUMNS = 4096
"""The same of int8, of which other programs make a number of each byte for each row of text, in four times as long."""
TOGETHER = 4
"""Rows of text that a program goes over where they are multiplied one by one, in float32; others take the same part of
a matrix to further rows, at the same time."""
MOST_PROGRAMS = 1584
"""Of one row of text: what an H100 runs at once. With more, each would make the norm of the row for itself again."""
MOST_UNIT_PROGRAMS = 264
"""The same of several rows."""
MOST_OUTS = 4
"""Rows of a matrix that a program holds: with more, small matrices would leave multiprocessors without a program."""
WARP_BYTES = 8192
"""Of a matrix in the registers of a warp: two kernels' programs fit on a multiprocessor at once."""
WARP_WIDE = 256
"""Neighbours in a vector that a warp takes, eight a thread."""
WARP_COLUMNS = 2048
"""Elements of a vector for which one warp will do. Its sums need no barrier."""
WIDEST = 16384
"""Elements of a vector that four warps hold."""
CHUNK = 128
"""Keys that a program of `attend` goes over: 1,024 of them keep 96 programs busy with 12 heads."""
AHEAD_ROWS = 1
"""Rows of text up to which `mixed_linear` loads a chunk while it adds another: that takes half as many registers more,
and the programs of eight rows just fit on an H100 without."""
MOST_RANKED = 1024
"""Ids that the one warp of `pick` filters and draws from."""
ACTIVATIONS = {"gelu": 1, "gelu_tanh": 2, "swiglu": 3}


def usable(model: InferenceModel, rows: int) -> bool:
    """Whether the kernels take the model, on its device."""
    c = model.config
    return (
        rows <= MOST_ROWS
        and model.kernels is fused
        and kernels.usable(model.norm.weight)
        and max(c.d_model, c.ff_dim) <= WIDEST
        and c.head_dim <= 256
    )


class FewRows:
    """The buffers of a step, and the step.

    Args:
        model: the weights.
        rows: R.
        early: start each kernel before the one in front of it has ended; by default where the card can.
    """

    def __init__(self, model: InferenceModel, rows: int, early: bool | None = None):
        from lm_torch.kernels.programs import cached_attention, choice
        from lm_torch.kernels.programs import decode as programs

        c, device = model.config, model.embed.device
        self.model, self.rows, self.programs, self.choice = model, rows, programs, choice
        self.attention = cached_attention
        self.together = max(count for count in range(1, TOGETHER + 1) if rows % count == 0)
        able = device.type == "cuda" and torch.cuda.get_device_properties(device).major >= 9
        self.early = able if early is None else early
        self.launch = {"launch_pdl": True} if self.early else {}
        self.chunks = -(-c.seq_len // CHUNK)

        def empty(*shape: int) -> Tensor:
            return torch.empty(rows, *shape, dtype=torch.float32, device=device)

        self.x, self.hidden = empty(c.d_model), empty(c.ff_dim)
        self.qkv = empty((c.n_heads + 2 * c.kv_heads) * c.head_dim)
        self.mixed = empty(c.n_heads, self.chunks, c.head_dim)
        self.sums = empty(c.n_heads, self.chunks, 2)
        self.limits: dict[SamplingConfig, Tensor] = {}
        self.chosen = torch.empty(rows, dtype=torch.int64, device=device)
        parts = self._programs(len(model.head.weight), c.d_model, _tile(model.head.weight, *_parts(c.d_model))["OUTS"])
        self.most, self.most_ids = empty(parts), torch.empty(rows, parts, dtype=torch.int32, device=device)
        times = torch.arange(c.seq_len if c.positions == "rope" else 1, device=device)
        self.cosines, self.sines = angles_at(times, max(1, c.head_dim // 2), c.rope_theta)

    def rank(self, logits: Tensor) -> None:
        """The largest of each part of logits [R, V], as the head leaves it too: for the first `read` after others."""
        parts = self.most.shape[1]
        self.choice.largest_parts[(self.rows, parts)](
            logits, self.most, self.most_ids, logits.shape[1], logits.stride(0),
            BLOCK=_power(-(-logits.shape[1] // parts)), EARLY=self.early, **self.launch,
        )  # fmt: skip

    def read(
        self, chosen: Tensor | None, drawn: Tensor, turn: Tensor, caches: list[KVCache], positions: Tensor, out: Tensor
    ) -> None:
        """Note an id of each row, read it, and leave the logits that follow.

        Args:
            chosen: [R]; None for the ids of the largest logits, which `rank` or `read` has seen.
            drawn: [any, R or more], of which row `turn` gets the ids.
            turn: [R], the same in each; grows by one.
            caches: of the layers.
            positions: [R], where the ids go (past the last of the cache: there); each grows by one.
            out: [R, V], the logits.
        """
        c, m = self.model.config, self.model
        place, parts = m.embed if m.pos_embed is None else m.pos_embed, self.most.shape[1]
        self.programs.take[(self.rows,)](
            self.most, self.most_ids, turn if chosen is None else chosen, drawn, turn, m.embed, place, positions,
            self.x, parts, drawn.stride(0), c.d_model, c.seq_len - 1,
            GREEDY=chosen is None, MOST_PARTS=_power(parts), PLACED=m.pos_embed is not None,
            COLUMNS=_power(c.d_model), EARLY=self.early, **self.launch,
        )  # fmt: skip
        for block, cache in zip(m.blocks, caches, strict=True):
            self._normed_linear(self.x, block.attn_norm, block.qkv_proj, self.qkv)
            self._attend(cache, positions)
            self._mixed_linear(block.o_proj, positions)
            self._normed_linear(self.x, block.mlp_norm, block.up_proj, self.hidden, ACTIVATIONS[c.mlp], block.gated)
            self._linear(self.hidden, block.down_proj)
        self._normed_linear(self.x, m.norm, m.head, out, positions=positions)

    def pick(self, logits: Tensor, uniforms: Tensor, sampling: SamplingConfig) -> Tensor:
        """The id [R] drawn from logits [R, V] at `uniforms` [R]; see `sample.draw`."""
        if not 0 < sampling.top_k <= min(MOST_RANKED, logits.shape[1]):
            return draw(logits, uniforms, sampling)
        if sampling not in self.limits:
            numbers = sampling.temperature, (1 - ROUNDING) * sampling.min_p, sampling.top_p - ROUNDING
            self.limits[sampling] = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
        ranked, ids = largest(logits, sampling.top_k)
        self.choice.pick[(self.rows,)](
            ranked, ids, uniforms, self.limits[sampling], self.chosen, sampling.top_k,
            CUT=sampling.top_p < 1, BLOCK=_power(sampling.top_k), EARLY=self.early, num_warps=1, **self.launch,
        )  # fmt: skip
        return self.chosen

    def _normed_linear(
        self,
        x: Tensor,
        norm: Norm,
        projection: Projection,
        y: Tensor,
        activation: int = 0,
        gated: bool = False,
        positions: Tensor | None = None,
    ) -> None:
        """y [R, outs] of x [R, D]; with `positions`, it is the head's, with which a step ends."""
        outs, width = y.shape[1], x.shape[1]
        given = (
            x, norm.weight, _given(norm.bias, x), *_matrix(projection, x), y,
            _given(positions, x), self.most, self.most_ids,
        )  # fmt: skip
        sizes = width, outs, norm.eps
        how = {
            "CENTRED": norm.centred, "SHIFTED": norm.bias is not None, **_kind(projection),
            "ACTIVATION": activation, "GATED": gated, "LAST": positions is not None, "EARLY": self.early, **self.launch,
        }  # fmt: skip
        if self._by_units(width):
            programs = self._programs(outs, width, 1)
            self.programs.normed_rows_linear[(programs,)](*given, self.rows, *sizes, **_unit_tile(width), **how)
            return
        tile = _tile(projection.weight, *_parts(width), tiles=2 if gated else 1)
        grid = self.rows // self.together, self._programs(outs, width, tile["OUTS"])
        self.programs.normed_linear[grid](
            *given, *sizes, ROWS=self.together, LANES=_power(self.together), **tile, **how
        )

    def _by_units(self, width: int) -> bool:
        columns = INT8_UNIT_COLUMNS if self.model.head.scales is not None else UNIT_COLUMNS
        return self.rows > 1 and self.model.dtype == torch.bfloat16 and width <= columns

    def _programs(self, outs: int, width: int, tile: int) -> int:
        """How many share the rows of a matrix behind a norm, each of which takes `tile` at a time."""
        if self._by_units(width):
            return min(-(-outs // UNIT_OUTS), MOST_UNIT_PROGRAMS)
        return min(-(-outs // tile), MOST_PROGRAMS)

    def _attend(self, cache: KVCache, positions: Tensor) -> None:
        c = self.model.config
        self.attention.attend[(self.rows * c.kv_heads, self.chunks)](
            self.qkv, cache.k, cache.v, positions, self.cosines, self.sines, self.mixed, self.sums,
            c.n_heads, c.kv_heads, c.seq_len - 1, self.chunks, c.head_dim**-0.5,
            WIDTH=c.head_dim, HIGH=_power(c.head_dim), GROUP=c.n_heads // c.kv_heads, CHUNK=CHUNK,
            ROPE=c.positions == "rope", EARLY=self.early, **self.launch,
        )  # fmt: skip

    def _mixed_linear(self, projection: Projection, positions: Tensor) -> None:
        c = self.model.config
        tile = _tile(projection.weight, _power(c.n_heads), _power(c.head_dim))
        self.attention.mixed_linear[(self.rows, -(-c.d_model // tile["OUTS"]))](
            self.mixed, self.sums, positions, *_matrix(projection, self.x), self.x,
            c.n_heads, c.seq_len - 1, self.chunks,
            AHEAD=self.rows <= AHEAD_ROWS, **_kind(projection), WIDTH=c.head_dim, CHUNK=CHUNK,
            EARLY=self.early, **tile, **self.launch,
        )  # fmt: skip

    def _linear(self, hidden: Tensor, projection: Projection) -> None:
        outs, width = self.x.shape[1], hidden.shape[1]
        given = hidden, *_matrix(projection, self.x), self.x
        how = {**_kind(projection), "EARLY": self.early, **self.launch}
        if self._by_units(width):
            programs = -(-outs // UNIT_OUTS)
            self.programs.rows_linear[(programs,)](*given, self.rows, width, outs, **_unit_tile(width), **how)
            return
        tile = _tile(projection.weight, *_parts(width))
        self.programs.linear[(self.rows // self.together, -(-outs // tile["OUTS"]))](
            *given, width, outs, ROWS=self.together, **tile, **how
        )


def _power(count: int) -> int:
    """The power of two from `count` on."""
    return 1 << (count - 1).bit_length()


def _parts(width: int) -> tuple[int, int]:
    """Shape of a vector in registers, PARTS and WIDE."""
    wide = min(_power(width), WARP_WIDE * _warps(_power(width)))
    return _power(width) // wide, wide


def _warps(columns: int) -> int:
    return 1 if columns <= WARP_COLUMNS else 4


def _tile(weight: Tensor, parts: int, wide: int, tiles: int = 1) -> dict[str, Any]:
    """The part of a matrix that a program holds, where it holds so many of them."""
    warps = _warps(parts * wide)
    outs = min(MOST_OUTS, WARP_BYTES * warps // (parts * wide * weight.element_size() * tiles))
    return {"OUTS": max(1, outs), "PARTS": parts, "WIDE": wide, "num_warps": warps}


def _given(tensor: Tensor | None, instead: Tensor) -> Tensor:
    """A program takes a pointer where it reads nothing too."""
    return instead if tensor is None else tensor


def _matrix(projection: Projection, instead: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, scales and bias as a program takes them."""
    return projection.weight, _given(projection.scales, instead), _given(projection.bias, instead)


def _kind(projection: Projection) -> dict[str, Any]:
    return {"SCALED": projection.scales is not None, "BIASED": projection.bias is not None}


def _unit_tile(width: int) -> dict[str, Any]:
    """The part of a matrix that a program takes to the matrix units."""
    columns = max(16, _power(width))  # of which they take 16 at least
    wide = min(columns, UNIT_WIDE)
    warps = min(16, max(1, columns // 128))
    return {"OUTS": UNIT_OUTS, "PARTS": columns // wide, "WIDE": wide, "LANES": MOST_ROWS, "num_warps": warps}
