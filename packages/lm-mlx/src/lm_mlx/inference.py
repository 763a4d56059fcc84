"""The model as decoding wants it: plain tensors, a KV cache, the logits of the last position.

The weights are taken out of the modules once, cast to the type of the activations, and those that read the same vector
are joined. The tests hold the logits against `LanguageModel`, position by position.

Axes: R rows, T time, S cached time, D model, N heads, K kv heads, H head, F feed-forward, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from lm_mlx.attention import Offset, angles, turn
from lm_mlx.layers import LayerNorm, Linear, RMSNorm, SwiGLU
from lm_mlx.model import Block, LanguageModel

Function = Callable[[mx.array], mx.array]
Turns = tuple[mx.array, mx.array]


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
    bias: mx.array | None

    @classmethod
    def of(cls, dtype: mx.Dtype, *layers: Linear) -> "Projection":
        """One layer as it is, several joined along their outputs."""
        weights = [layer.weight.astype(dtype) for layer in layers]
        biases = [layer.bias.astype(dtype) for layer in layers if "bias" in layer]
        joined = [
            tensors[0] if len(tensors) == 1 else mx.concatenate(tensors) for tensors in (weights, biases) if tensors
        ]
        return cls(joined[0], joined[1] if biases else None)


class InferenceBlock:
    """The tensors of one block."""

    def __init__(self, block: Block, dtype: mx.Dtype):
        attn, mlp = block.attn, block.mlp
        self.attn_norm, self.mlp_norm = _frozen_norm(block.attn_norm, dtype), _frozen_norm(block.mlp_norm, dtype)
        self.qkv_proj = Projection.of(dtype, attn.q_proj, attn.k_proj, attn.v_proj)
        self.o_proj = Projection.of(dtype, attn.o_proj)
        self.gated = isinstance(mlp, SwiGLU)
        ups = (mlp.gate_proj, mlp.up_proj) if isinstance(mlp, SwiGLU) else (mlp.up_proj,)
        self.up_proj = Projection.of(dtype, *ups)
        self.down_proj = Projection.of(dtype, mlp.down_proj)
        self.activation: Function = mlp.activation


class InferenceModel:
    """A snapshot of a model's weights for decoding; of the vocabulary, only the first `vocab_size` ids."""

    def __init__(self, model: LanguageModel, vocab_size: int):
        self.config, self.dtype, self.kernels = model.config, model.dtype, model.kernels
        self.embed = model.embed.weight
        self.pos_embed = model.pos_embed.weight if "pos_embed" in model else model.get("_sinusoids")
        self.blocks = [InferenceBlock(block, model.dtype) for block in model.blocks]
        self.norm = _frozen_norm(model.norm, model.dtype)
        weight, bias = model.head_weights(model.dtype)
        self.head = Projection(weight[:vocab_size], None if bias is None else bias[:vocab_size])

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
        y: mx.array = self.kernels.linear(x, projection.weight, projection.bias)
        return y


def _frozen_norm(norm: RMSNorm | LayerNorm, dtype: mx.Dtype) -> Function:
    weight = norm.weight.astype(dtype)
    if isinstance(norm, RMSNorm):
        return partial(norm.kernels.rms_norm, weight=weight, eps=norm.eps)
    bias = norm.bias.astype(dtype) if "bias" in norm else None
    return partial(norm.kernels.layer_norm, weight=weight, bias=bias, eps=norm.eps)
