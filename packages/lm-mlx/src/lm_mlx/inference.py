"""The model as decoding wants it: plain tensors, a KV cache, the logits of the last position.

The weights are taken out of the modules once, cast to the type of the activations, and those that read the same vector
are joined. The tests hold the logits against `LanguageModel`, position by position.

Axes: R rows, T time, S cached time, D model, N heads, K kv heads, H head, F feed-forward, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from lm_core.config import WeightsDtype
from lm_mlx.attention import Offset, angles, turn
from lm_mlx.layers import LayerNorm, Linear, RMSNorm, SwiGLU
from lm_mlx.model import Block, LanguageModel

Function = Callable[[mx.array], mx.array]
Turns = tuple[mx.array, mx.array]
LARGEST_INT8 = 127
GROUP = 64
"""Neighbours in a row of a matrix that MLX quantizes together."""
ZERO = 128
"""What stands for 0 in its unsigned bytes."""


@dataclass
class KVCache:
    """Keys and values of one layer, [R, K, S, H], filled from the left."""

    k: mx.array
    v: mx.array

    def append(self, k: mx.array, v: mx.array, offset: Offset) -> tuple[mx.array, mx.array]:
        """Write [R, K, T, H] at `offset`; returns what there is to see.

        That is everything up to there; with an offset for each row (T = 1), the whole cache, to be masked.
        """
        if isinstance(offset, int):
            end = offset + k.shape[2]
            self.k[:, :, offset:end], self.v[:, :, offset:end] = k, v
            return self.k[:, :, :end], self.v[:, :, :end]
        rows = mx.arange(len(k))
        self.k[rows, :, offset], self.v[rows, :, offset] = k[:, :, 0], v[:, :, 0]
        return self.k, self.v

    def rows(self, rows: mx.array) -> "KVCache":
        """A copy of some rows."""
        return KVCache(self.k[rows], self.v[rows])


@dataclass
class Projection:
    """Weight [out, in] and bias [out] of one or several linear layers over the same input."""

    weight: mx.array
    """Or int8, or four of it in a uint32, [out, in / 4]."""
    bias: mx.array | None
    scales: mx.array | None = None
    """[out], float32, of an int8 weight: what its rows are multiplied by; else None."""

    @classmethod
    def of(cls, dtype: mx.Dtype, weights_dtype: WeightsDtype, *layers: Linear) -> "Projection":
        """One layer as it is, several joined along their outputs."""
        biases = [layer.bias for layer in layers if "bias" in layer]
        return cls.joined(dtype, weights_dtype, [layer.weight for layer in layers], biases)

    @classmethod
    def joined(
        cls, dtype: mx.Dtype, weights_dtype: WeightsDtype, weights: list[mx.array], biases: list[mx.array]
    ) -> "Projection":
        """Weights and biases joined along their outputs, and cast."""
        bias = _joined([bias.astype(dtype) for bias in biases]) if biases else None
        if weights_dtype == "same":
            return cls(_joined([weight.astype(dtype) for weight in weights]), bias)
        quantized, scales = zip(*map(quantize, weights), strict=True)
        return cls(packed(_joined(list(quantized))), bias, _joined(list(scales)))


def quantize(weight: mx.array) -> tuple[mx.array, mx.array]:
    """int8 [out, in] and float32 scales [out], whose product is the weight to within half a scale (symmetric)."""
    weight = weight.astype(mx.float32)
    scales = mx.abs(weight).max(axis=1) / LARGEST_INT8
    scales = mx.where(scales > 0, scales, 1.0)
    return mx.clip(mx.round(weight / scales[:, None]), -LARGEST_INT8, LARGEST_INT8).astype(mx.int8), scales


def packed(weight: mx.array) -> mx.array:
    """An int8 weight [out, in] as MLX's kernels take it, where its width lets them: see `product`."""
    if weight.shape[1] % GROUP:
        return weight
    return (weight.astype(mx.int16) + ZERO).astype(mx.uint8).view(mx.uint32)


def product(x: mx.array, weight: mx.array) -> mx.array:
    """x [..., in] by an int8 weight, packed or not: [..., out], not scaled.

    MLX's own quantization has a scale and an offset for each group of a row. Ours has one scale for the row, so that
    both backends decode by the same weights: of every group the scale is 1, and the offset takes the 128 back.
    """
    if weight.dtype != mx.uint32:
        return x @ weight.astype(x.dtype).T
    ones = mx.ones((weight.shape[0], 4 * weight.shape[1] // GROUP), x.dtype)
    return mx.quantized_matmul(x, weight, ones, -ZERO * ones, transpose=True, group_size=GROUP, bits=8)


def _joined(tensors: list[mx.array]) -> mx.array:
    return tensors[0] if len(tensors) == 1 else mx.concatenate(tensors)


class InferenceBlock:
    """The tensors of one block."""

    def __init__(self, block: Block, dtype: mx.Dtype, weights_dtype: WeightsDtype):
        attn, mlp = block.attn, block.mlp
        projection = partial(Projection.of, dtype, weights_dtype)
        self.attn_norm, self.mlp_norm = _frozen_norm(block.attn_norm, dtype), _frozen_norm(block.mlp_norm, dtype)
        self.qkv_proj = projection(attn.q_proj, attn.k_proj, attn.v_proj)
        self.o_proj = projection(attn.o_proj)
        self.gated = isinstance(mlp, SwiGLU)
        ups = (mlp.gate_proj, mlp.up_proj) if isinstance(mlp, SwiGLU) else (mlp.up_proj,)
        self.up_proj = projection(*ups)
        self.down_proj = projection(mlp.down_proj)
        self.activation: Function = mlp.activation


class InferenceModel:
    """A snapshot of a model's weights for decoding; of the vocabulary, only the first `vocab_size` ids."""

    def __init__(self, model: LanguageModel, vocab_size: int, weights_dtype: WeightsDtype = "same"):
        self.config, self.dtype, self.kernels = model.config, model.dtype, model.kernels
        self.embed = model.embed.weight
        self.pos_embed = model.pos_embed.weight if "pos_embed" in model else model.get("_sinusoids")
        self.blocks = [InferenceBlock(block, model.dtype, weights_dtype) for block in model.blocks]
        self.norm = _frozen_norm(model.norm, model.dtype)
        weight, bias = model.head_weights(model.dtype if weights_dtype == "same" else mx.float32)
        biases = [] if bias is None else [bias[:vocab_size]]
        self.head = Projection.joined(model.dtype, weights_dtype, [weight[:vocab_size]], biases)

    def logits(self, ids: mx.array, caches: list[KVCache], offset: Offset) -> mx.array:
        """Read ids [R, T] at `offset`, and return the logits [R, V] after the last of them, float32.

        T is 1, or the offset 0. With an offset for each row, [R], the shapes are the same at every step.
        """
        c = self.config
        x = self.kernels.embedding(ids, self.embed)
        turns = mask = None
        if not isinstance(offset, int):
            mask = (mx.arange(c.seq_len) <= offset[:, None])[:, None, None]
        if self.pos_embed is not None:
            alike = isinstance(offset, int)
            x = x + (self.pos_embed[offset : offset + ids.shape[1]] if alike else self.pos_embed[offset][:, None])
        if c.positions == "rope":
            turns = angles(offset, ids.shape[1], c.head_dim // 2, c.rope_theta)
        x = x.astype(self.dtype)
        for block, cache in zip(self.blocks, caches, strict=True):
            q, k, v = self._heads(block, block.attn_norm(x), turns)
            k, v = cache.append(k, v, offset)
            from_start = isinstance(offset, int) and offset == 0  # else a single position, which sees all there is
            mixed = self.kernels.scaled_dot_product_attention(q, k, v, mask, from_start)
            x = x + self._project(mixed.transpose(0, 2, 1, 3).reshape(x.shape), block.o_proj)
            x = x + self._feed_forward(block, block.mlp_norm(x))
        return self._project(self.norm(x[:, -1]), self.head).astype(mx.float32)

    def _heads(self, block: InferenceBlock, x: mx.array, turns: Turns | None) -> tuple[mx.array, mx.array, mx.array]:
        """[R, T, D] -> q [R, N, T, H], k and v [R, K, T, H]."""
        c = self.config
        qkv = self._project(x, block.qkv_proj).reshape(x.shape[0], x.shape[1], -1, c.head_dim).transpose(0, 2, 1, 3)
        q, k, v = mx.split(qkv, (c.n_heads, c.n_heads + c.kv_heads), axis=1)
        return (q, k, v) if turns is None else (turn(q, *turns), turn(k, *turns), v)

    def _feed_forward(self, block: InferenceBlock, x: mx.array) -> mx.array:
        up = self._project(x, block.up_proj)
        if block.gated:
            gate, up = mx.split(up, 2, axis=-1)
            return self._project(block.activation(gate) * up, block.down_proj)
        return self._project(block.activation(up), block.down_proj)

    def _project(self, x: mx.array, projection: Projection) -> mx.array:
        if projection.scales is None:
            y: mx.array = self.kernels.linear(x, projection.weight, projection.bias)
            return y
        y = product(x, projection.weight).astype(mx.float32) * projection.scales
        return (y if projection.bias is None else y + projection.bias).astype(x.dtype)


def _frozen_norm(norm: RMSNorm | LayerNorm, dtype: mx.Dtype) -> Function:
    weight = norm.weight.astype(dtype)
    if isinstance(norm, RMSNorm):
        return partial(norm.kernels.rms_norm, weight=weight, eps=norm.eps)
    bias = norm.bias.astype(dtype) if "bias" in norm else None
    return partial(norm.kernels.layer_norm, weight=weight, bias=bias, eps=norm.eps)
