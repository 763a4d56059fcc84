"""The language model: ids [B, T] -> logits [B, T, V], and its loss.

    ids -> embed (+ pos_embed, or sinusoids) -> n_layers x block -> norm -> lm_head -> logits

The names of the submodules are those of the parameter table in `lm_core.model.parameters`.
Axes: B batch, T time, D model, V vocabulary.
"""

import torch
from torch import Tensor, nn

from lm_core.config import ModelConfig
from lm_core.model.positions import sinusoids
from lm_torch import fused
from lm_torch.attention import Attention, packed
from lm_torch.dropout import dropout
from lm_torch.gradient_checkpointing import checkpointed
from lm_torch.layers import MLP, Embedding, Kernels, LayerNorm, Linear, RMSNorm, SwiGLU
from lm_torch.scratch import widened


def make_norm(config: ModelConfig, kernels: Kernels) -> RMSNorm | LayerNorm:
    """The norm that a config names."""
    if config.norm == "rms":
        return RMSNorm(config.d_model, config.norm_eps, kernels)
    return LayerNorm(config.d_model, config.norm_eps, config.bias, kernels)


class Block(nn.Module):
    """x + attn(norm(x)), then x + mlp(norm(x)): the decoder block, pre-norm as in GPT-2."""

    def __init__(self, config: ModelConfig, index: int, kernels: Kernels = fused, mlp_kernels: Kernels | None = None):
        super().__init__()
        c = config
        self.rate, self.site = c.dropout, 3 * index + 1
        theta = c.rope_theta if c.positions == "rope" else None
        self.attn_norm = make_norm(c, kernels)
        self.attn = Attention(c.d_model, c.n_heads, c.kv_heads, c.bias, theta, c.dropout, kernels)
        self.mlp_norm = make_norm(c, kernels)
        self.mlp = (
            SwiGLU(c.d_model, c.ff_dim, c.bias, mlp_kernels or kernels)
            if c.mlp == "swiglu"
            else MLP(c.d_model, c.ff_dim, c.mlp, c.bias, mlp_kernels or kernels)
        )

    def forward(
        self,
        x: Tensor,
        key: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
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
        dtype: torch.dtype = torch.float32,
        kernels: Kernels = fused,
        gradient_checkpointing: int = 0,
        mlp_kernels: Kernels | None = None,
    ):
        super().__init__()
        self.config, self.dtype, self.kernels = config, dtype, kernels
        self.gradient_checkpointing = gradient_checkpointing
        self.embed = Embedding(config.vocab_size, config.d_model, kernels)
        self.pos_embed = Embedding(config.seq_len, config.d_model, kernels) if config.positions == "learned" else None
        self.sinusoids: Tensor | None
        self.register_buffer("sinusoids", self._sinusoids(), persistent=False)
        self.blocks = nn.ModuleList(Block(config, i, kernels, mlp_kernels) for i in range(config.n_layers))
        self.norm = make_norm(config, kernels)
        head = None if config.tie_embeddings else Linear(config.d_model, config.vocab_size, config.head_bias, kernels)
        self.lm_head = head

    def _sinusoids(self) -> Tensor | None:
        """The table [T, D] of sinusoidal positions, which is not a parameter."""
        if self.config.positions != "sinusoidal":
            return None
        table = torch.from_numpy(sinusoids(self.config.seq_len, self.config.d_model))
        return table.to(torch.promote_types(self.dtype, torch.float32))

    def hidden(self, ids: Tensor, key: Tensor | None = None, starts: Tensor | None = None) -> Tensor:
        """Input of the head, [B, T, D]; the rest is as in `forward`."""
        positions, mask = (None, None) if starts is None else packed(starts)
        x = self.embedded(ids, key, positions)
        every = self.gradient_checkpointing if torch.is_grad_enabled() else 0
        for i, block in enumerate(self.blocks):
            again = every and i % every == 0
            x = checkpointed(block, x, key, positions, mask) if again else block(x, key, positions, mask)
        return self.norm(x)

    def embedded(self, ids: Tensor, key: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Input of the first block, [B, T, D], at `positions` [B, T], or from 0 on."""
        x = self.embed(ids)
        if self.dtype == torch.float64:
            x = x.double()
        if self.pos_embed is not None:
            first = self.pos_embed.weight[..., None, : ids.shape[-1], :]  # alike in all rows
            x = x + (first if positions is None else self.pos_embed(positions))
        if self.sinusoids is not None:
            x = x + self.sinusoids[slice(ids.shape[-1]) if positions is None else positions]
        return dropout(x.to(self.dtype), self.config.dropout, key, 0)

    def head(self, x: Tensor) -> Tensor:
        """[..., D] -> logits [..., V] in float32, or in float64 where the activations are."""
        weight, bias = self.head_weights(x.dtype)
        return widened(self.kernels.linear(x, weight, bias))

    def head_weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight [V, D] and bias [V] of the head, cast."""
        if self.lm_head is None:
            return self.embed.weight.to(dtype), None
        bias = self.lm_head.bias
        return self.lm_head.weight.to(dtype), None if bias is None else bias.to(dtype)

    def forward(self, ids: Tensor, key: Tensor | None = None, starts: Tensor | None = None) -> Tensor:
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
        ids: Tensor,
        targets: Tensor,
        key: Tensor | None = None,
        weights: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy in nats of targets [B, T] given ids [B, T], each times its weight [B, T]."""
        x = self.hidden(ids, key, starts)
        return self.kernels.linear_cross_entropy(x, *self.head_weights(x.dtype), targets, weights)

    def token_losses(self, ids: Tensor, targets: Tensor, starts: Tensor | None = None) -> Tensor:
        """Nats of each target, [B, T], in float32, or in float64 where the activations are; without dropout."""
        x = self.hidden(ids, starts=starts)
        return self.kernels.linear_token_losses(x, *self.head_weights(x.dtype), targets)

    def token_marks(self, ids: Tensor, targets: Tensor, starts: Tensor | None = None) -> Tensor:
        """Nats, rank and confidence of each target, [3, B, T], see `lm_core.backend.Marks`; as `token_losses`."""
        x = self.hidden(ids, starts=starts)
        return self.kernels.linear_token_marks(x, *self.head_weights(x.dtype), targets)
