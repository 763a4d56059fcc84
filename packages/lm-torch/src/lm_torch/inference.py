"""The model as decoding wants it: plain tensors, a KV cache, the logits of the last position.

What a module call costs is more than what a small layer computes at a single position. So the weights are taken out of
the modules once, cast to the type of the activations, and those that read the same vector are joined. The tests hold
the logits against `LanguageModel`, position by position.

Axes: R rows, T time, S cached time, D model, N heads, K kv heads, H head, F feed-forward, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from lm_torch.attention import Offset, angles, turn
from lm_torch.layers import Kernels, LayerNorm, Linear, RMSNorm, SwiGLU
from lm_torch.model import Block, LanguageModel

Function = Callable[[Tensor], Tensor]
Turns = tuple[Tensor, Tensor]


@dataclass
class KVCache:
    """Keys and values of one layer, [R, K, S, H], filled from the left."""

    k: Tensor
    v: Tensor

    def append(self, k: Tensor, v: Tensor, offset: Offset) -> tuple[Tensor, Tensor]:
        """Write [R, K, T, H] at `offset`; returns what there is to see.

        That is everything up to there; with an offset for each row (T = 1), the whole cache, to be masked.
        """
        if isinstance(offset, int):
            end = offset + k.shape[2]
            self.k[:, :, offset:end], self.v[:, :, offset:end] = k, v
            return self.k[:, :, :end], self.v[:, :, :end]
        rows = torch.arange(len(k), device=k.device)
        self.k[rows, :, offset], self.v[rows, :, offset] = k[:, :, 0], v[:, :, 0]
        return self.k, self.v

    def rows(self, rows: slice | list[int]) -> "KVCache":
        """Some rows: a view for a slice, a copy for a list."""
        return KVCache(self.k[rows], self.v[rows])


@dataclass
class Projection:
    """Weight [out, in] and bias [out] of one or several linear layers over the same input."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, dtype: torch.dtype, *layers: Linear) -> "Projection":
        """One layer as it is, several joined along their outputs."""
        weights = [layer.weight.detach().to(dtype) for layer in layers]
        biases = [layer.bias.detach().to(dtype) for layer in layers if layer.bias is not None]
        joined = [tensors[0] if len(tensors) == 1 else torch.cat(tensors) for tensors in (weights, biases) if tensors]
        return cls(joined[0], joined[1] if biases else None)


@dataclass
class Norm:
    """LayerNorm or RMSNorm of the last axis, weight and bias [D]."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    centred: bool
    """Whether it is LayerNorm, which subtracts the mean."""
    kernels: Kernels

    @classmethod
    def of(cls, dtype: torch.dtype, norm: RMSNorm | LayerNorm) -> "Norm":
        """A module's, cast."""
        bias = norm.bias if isinstance(norm, LayerNorm) else None
        frozen = None if bias is None else bias.detach().to(dtype)
        return cls(norm.weight.detach().to(dtype), frozen, norm.eps, isinstance(norm, LayerNorm), norm.kernels)

    def __call__(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if self.centred:
            return cast(Tensor, self.kernels.layer_norm(x, self.weight, self.bias, self.eps))
        return cast(Tensor, self.kernels.rms_norm(x, self.weight, self.eps))


class InferenceBlock:
    """The tensors of one block."""

    def __init__(self, block: Block, dtype: torch.dtype):
        attn, mlp = block.attn, block.mlp
        self.attn_norm, self.mlp_norm = Norm.of(dtype, block.attn_norm), Norm.of(dtype, block.mlp_norm)
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
        self.embed = model.embed.weight.detach()
        self.pos_embed = model.sinusoids if model.pos_embed is None else model.pos_embed.weight.detach()
        self.blocks = [InferenceBlock(cast(Block, block), model.dtype) for block in model.blocks]
        self.norm = Norm.of(model.dtype, model.norm)
        weight, bias = model.head_weights(model.dtype)
        self.head = Projection(weight.detach()[:vocab_size], None if bias is None else bias.detach()[:vocab_size])

    def logits(self, ids: Tensor, caches: list[KVCache], offset: Offset) -> Tensor:
        """Read ids [R, T] at `offset`, and return the logits [R, V] after the last of them, float32.

        T is 1, or the offset 0. With an offset for each row, [R], the shapes are the same at every step.
        """
        c = self.config
        x = self.kernels.embedding(ids, self.embed)
        turns = mask = None
        if not isinstance(offset, int):
            mask = (torch.arange(c.seq_len, device=ids.device) <= offset[:, None])[:, None, None]
        if self.pos_embed is not None:
            alike = isinstance(offset, int)
            x = x + (self.pos_embed[offset : offset + ids.shape[1]] if alike else self.pos_embed[offset][:, None])
        if c.positions == "rope":
            turns = angles(offset, ids.shape[1], c.head_dim // 2, c.rope_theta, ids.device)
        x = x.to(self.dtype)
        for block, cache in zip(self.blocks, caches, strict=True):
            q, k, v = self._heads(block, block.attn_norm(x), turns)
            k, v = cache.append(k, v, offset)
            from_start = isinstance(offset, int) and offset == 0  # else a single position, which sees all there is
            mixed = self.kernels.scaled_dot_product_attention(q, k, v, mask, from_start)
            x = x + self._project(mixed.transpose(1, 2).reshape(x.shape), block.o_proj)
            x = x + self._feed_forward(block, block.mlp_norm(x))
        return self._project(self.norm(x[:, -1]), self.head).float()

    def _heads(self, block: InferenceBlock, x: Tensor, turns: Turns | None) -> tuple[Tensor, Tensor, Tensor]:
        """[R, T, D] -> q [R, N, T, H], k and v [R, K, T, H]."""
        c = self.config
        qkv = self._project(x, block.qkv_proj).view(x.shape[0], x.shape[1], -1, c.head_dim).transpose(1, 2)
        q, k, v = qkv.split((c.n_heads, c.kv_heads, c.kv_heads), dim=1)
        return (q, k, v) if turns is None else (turn(q, *turns), turn(k, *turns), v)

    def _feed_forward(self, block: InferenceBlock, x: Tensor) -> Tensor:
        up = self._project(x, block.up_proj)
        if block.gated:
            gate, up = up.chunk(2, dim=-1)
            return self._project(block.activation(gate) * up, block.down_proj)
        return self._project(block.activation(up), block.down_proj)

    def _project(self, x: Tensor, projection: Projection) -> Tensor:
        y: Tensor = self.kernels.linear(x, projection.weight, projection.bias)
        return y
