"""The language model: ids [B, T] -> logits [B, T, V], and its loss.

The names of the submodules are those of the parameter table in `lm_core.model.parameters`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_core.config import ModelConfig
from lm_torch.layers import Block, Embedding, KVCache, Linear, Norm, dropout


class LanguageModel(nn.Module):
    """A decoder-only Transformer. `dtype` is the type of the activations; parameters are float32."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config, self.dtype = config, dtype
        self.embed = Embedding(config.vocab_size, config.d_model)
        self.pos_embed = Embedding(config.seq_len, config.d_model) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = Norm(config)
        self.lm_head = None if config.tie_embeddings else Linear(config.d_model, config.vocab_size, config.head_bias)

    def forward(
        self, ids: Tensor, key: Tensor | None = None, caches: Sequence[KVCache] | None = None, offset: int = 0
    ) -> Tensor:
        """Logits in float32.

        Args:
            ids: [B, T].
            key: the step's dropout key; without one nothing is dropped.
            caches: one per layer; then `ids` are the positions from `offset` on (all of them, or one).
            offset: how many positions the caches hold.
        """
        x = self.embed(ids)
        if self.pos_embed is not None:
            x = x + self.pos_embed.weight[offset : offset + ids.shape[1]]
        x = dropout(x.to(self.dtype), self.config.dropout, key, 0)
        for i, block in enumerate(self.blocks):
            x = block(x, key, None if caches is None else caches[i], offset)
        x = self.norm(x)
        if self.lm_head is None:
            return F.linear(x, self.embed.weight.to(x.dtype)).float()
        return self.lm_head(x).float()

    def loss(self, ids: Tensor, targets: Tensor, key: Tensor | None = None) -> Tensor:
        """Mean cross-entropy in nats of targets [B, T] given ids [B, T]."""
        logits = self(ids, key)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))
