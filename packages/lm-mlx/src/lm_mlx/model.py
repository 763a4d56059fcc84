"""The language model: ids [B, T] -> logits [B, T, V], and its loss.

    ids -> embed (+ pos_embed, or sinusoids) -> n_layers x block -> norm -> lm_head -> logits

The names of the submodules are those of the parameter table in `lm_core.model.parameters`.
Axes: B batch, T time, D model, V vocabulary.
"""

import mlx.core as mx
from mlx import nn

from lm_core.config import ModelConfig
from lm_core.model.positions import sinusoids
from lm_mlx import fused
from lm_mlx.attention import Attention, packed
from lm_mlx.dropout import dropout
from lm_mlx.gradient_checkpointing import checkpointed
from lm_mlx.layers import MLP, Embedding, Kernels, LayerNorm, Linear, RMSNorm, SwiGLU
from lm_mlx.scratch import widened


def make_norm(config: ModelConfig, kernels: Kernels) -> RMSNorm | LayerNorm:
    """The norm that a config names."""
    if config.norm == "rms":
        return RMSNorm(config.d_model, config.norm_eps, kernels)
    return LayerNorm(config.d_model, config.norm_eps, config.bias, kernels)


class Block(nn.Module):
    """x + attn(norm(x)), then x + mlp(norm(x)): the decoder block, pre-norm as in GPT-2."""

    def __init__(self, config: ModelConfig, index: int, kernels: Kernels = fused):
        super().__init__()
        c = config
        self.rate, self.site = c.dropout, 3 * index + 1
        theta = c.rope_theta if c.positions == "rope" else None
        self.attn_norm = make_norm(c, kernels)
        self.attn = Attention(c.d_model, c.n_heads, c.kv_heads, c.bias, theta, c.dropout, kernels)
        self.mlp_norm = make_norm(c, kernels)
        self.mlp = (
            SwiGLU(c.d_model, c.ff_dim, c.bias, kernels)
            if c.mlp == "swiglu"
            else MLP(c.d_model, c.ff_dim, c.mlp, c.bias, kernels)
        )

    def __call__(
        self,
        x: mx.array,
        key: mx.array | None = None,
        positions: mx.array | None = None,
        mask: mx.array | None = None,
    ) -> mx.array:
        """[B, T, D] -> [B, T, D]; with the step's dropout key, elements are dropped. For the rest see `Attention`."""
        mixed = self.attn(self.attn_norm(x), key, self.site, positions, mask)
        x = x + dropout(mixed, self.rate, key, self.site + 1)
        return x + dropout(self.mlp(self.mlp_norm(x)), self.rate, key, self.site + 2)


class LanguageModel(nn.Module):
    """A decoder-only Transformer. `dtype` is the type of the activations; parameters are float32.

    With `gradient_checkpointing` n, activations of the blocks 0, n, 2 n, ... are computed again in the backward pass.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: mx.Dtype = mx.float32,
        kernels: Kernels = fused,
        gradient_checkpointing: int = 0,
    ):
        super().__init__()
        self.config, self.dtype, self.kernels = config, dtype, kernels
        self.gradient_checkpointing = gradient_checkpointing
        self.embed = Embedding(config.vocab_size, config.d_model, kernels)
        if config.positions == "learned":
            self.pos_embed = Embedding(config.seq_len, config.d_model, kernels)
        if config.positions == "sinusoidal":
            # By its underscore MLX knows that it is not a parameter.
            table = sinusoids(config.seq_len, config.d_model).tolist()
            self._sinusoids = mx.array(table, mx.float64 if dtype == mx.float64 else mx.float32)
        self.blocks = [Block(config, i, kernels) for i in range(config.n_layers)]
        self.norm = make_norm(config, kernels)
        if not config.tie_embeddings:
            self.lm_head = Linear(config.d_model, config.vocab_size, config.head_bias, kernels)

    def hidden(self, ids: mx.array, key: mx.array | None = None, starts: mx.array | None = None) -> mx.array:
        """Input of the head, [B, T, D]; the rest is as in `__call__`."""
        positions, mask = (None, None) if starts is None else packed(starts)
        x = self.embedded(ids, key, positions)
        for i, block in enumerate(self.blocks):
            again = self.gradient_checkpointing and i % self.gradient_checkpointing == 0
            x = checkpointed(block, x, key, positions, mask) if again else block(x, key, positions, mask)
        return self.norm(x)

    def embedded(self, ids: mx.array, key: mx.array | None = None, positions: mx.array | None = None) -> mx.array:
        """Input of the first block, [B, T, D], at `positions` [B, T], or from 0 on."""
        x = self.embed(ids)
        if self.dtype == mx.float64:
            x = x.astype(self.dtype)
        if "pos_embed" in self:
            x = x + (self.pos_embed.weight[: ids.shape[1]] if positions is None else self.pos_embed(positions))
        if "_sinusoids" in self:
            x = x + self._sinusoids[slice(ids.shape[1]) if positions is None else positions]
        return dropout(x.astype(self.dtype), self.config.dropout, key, 0)

    def head(self, x: mx.array) -> mx.array:
        """[..., D] -> logits [..., V] in float32, or in float64 where the activations are."""
        weight, bias = self.head_weights(x.dtype)
        return widened(self.kernels.linear(x, weight, bias))

    def head_weights(self, dtype: mx.Dtype) -> tuple[mx.array, mx.array | None]:
        """Weight [V, D] and bias [V] of the head, cast."""
        if "lm_head" not in self:
            return self.embed.weight.astype(dtype), None
        head = self.lm_head
        return head.weight.astype(dtype), head.bias.astype(dtype) if "bias" in head else None

    def __call__(self, ids: mx.array, key: mx.array | None = None, starts: mx.array | None = None) -> mx.array:
        """Logits [B, T, V] in float32.

        Args:
            ids: [B, T].
            key: the step's dropout key; without one nothing is dropped.
            starts: where the document of each token starts, [B, T], see `lm_core.model.positions.document_starts`:
                attention stays within it, and positions count from there. By default a row is one document.
        """
        return self.head(self.hidden(ids, key, starts))

    def loss(
        self,
        ids: mx.array,
        targets: mx.array,
        key: mx.array | None = None,
        weights: mx.array | None = None,
        starts: mx.array | None = None,
    ) -> mx.array:
        """Mean cross-entropy in nats of targets [B, T] given ids [B, T], each times its weight [B, T]."""
        x = self.hidden(ids, key, starts)
        return self.kernels.linear_cross_entropy(x, *self.head_weights(x.dtype), targets, weights)

    def token_losses(self, ids: mx.array, targets: mx.array, starts: mx.array | None = None) -> mx.array:
        """Nats of each target, [B, T], in float32, or in float64 where the activations are; without dropout."""
        x = self.hidden(ids, starts=starts)
        return self.kernels.linear_token_losses(x, *self.head_weights(x.dtype), targets)

    def token_marks(self, ids: mx.array, targets: mx.array, starts: mx.array | None = None) -> mx.array:
        """Nats, rank and confidence of each target, [3, B, T], see `lm_core.backend.Marks`; as `token_losses`."""
        x = self.hidden(ids, starts=starts)
        return self.kernels.linear_token_marks(x, *self.head_weights(x.dtype), targets)
