"""The model as decoding wants it: plain tensors, a KV cache, the logits of the last position.

What a module call costs is more than what a small layer computes at a single position. So the weights are taken out of
the modules once, cast to the type of the activations, and those that read the same vector are joined. The tests hold
the logits against `LanguageModel`, position by position.

Axes: R rows, T time, S cached time, D model, N heads, K kv heads, H head, F feed-forward, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from lm_core.config import WeightsDtype
from lm_torch.attention import Offset, angles, turn
from lm_torch.layers import Kernels, LayerNorm, Linear, RMSNorm, SwiGLU
from lm_torch.model import Block, LanguageModel

Function = Callable[[Tensor], Tensor]
Turns = tuple[Tensor, Tensor]
LARGEST_INT8 = 127


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
    scales: Tensor | None = None
    """[out], float32, of an int8 weight: what its rows are multiplied by; else None."""

    @classmethod
    def of(cls, dtype: torch.dtype, weights_dtype: WeightsDtype, *layers: Linear) -> "Projection":
        """One layer as it is, several joined along their outputs."""
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        return cls.joined(dtype, weights_dtype, [layer.weight.detach() for layer in layers], biases)

    @classmethod
    def joined(
        cls, dtype: torch.dtype, weights_dtype: WeightsDtype, weights: list[Tensor], biases: list[Tensor]
    ) -> "Projection":
        """Weights and biases joined along their outputs, and cast."""
        bias = _joined([bias.to(dtype) for bias in biases]) if biases else None
        if weights_dtype == "same":
            return cls(_joined([weight.to(dtype) for weight in weights]), bias)
        quantized, scales = zip(*map(quantize, weights), strict=True)
        return cls(_joined(list(quantized)), bias, _joined(list(scales)))


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [out, in] and float32 scales [out], whose product is the weight to within half a scale (symmetric)."""
    weight = weight.float()
    scales = weight.abs().amax(1) / LARGEST_INT8
    scales = torch.where(scales > 0, scales, 1.0)
    return (weight / scales[:, None]).round().clamp(-LARGEST_INT8, LARGEST_INT8).to(torch.int8), scales


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


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

    def __init__(self, block: Block, dtype: torch.dtype, weights_dtype: WeightsDtype):
        attn, mlp = block.attn, block.mlp
        projection = partial(Projection.of, dtype, weights_dtype)
        self.attn_norm, self.mlp_norm = Norm.of(dtype, block.attn_norm), Norm.of(dtype, block.mlp_norm)
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
        self.embed = model.embed.weight.detach()
        self.pos_embed = model.sinusoids if model.pos_embed is None else model.pos_embed.weight.detach()
        self.blocks = [InferenceBlock(cast(Block, block), model.dtype, weights_dtype) for block in model.blocks]
        self.norm = Norm.of(model.dtype, model.norm)
        weight, bias = model.head_weights(model.dtype if weights_dtype == "same" else torch.float32)
        biases = [] if bias is None else [bias.detach()[:vocab_size]]
        self.head = Projection.joined(model.dtype, weights_dtype, [weight.detach()[:vocab_size]], biases)

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
        if projection.scales is None:
            y: Tensor = self.kernels.linear(x, projection.weight, projection.bias)
            return y
        y = self.kernels.linear(x, projection.weight.to(x.dtype), None).float() * projection.scales
        return (y if projection.bias is None else y + projection.bias).to(x.dtype)
