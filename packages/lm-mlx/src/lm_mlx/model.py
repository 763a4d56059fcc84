"""The language model: ids [B, T] -> logits [B, T, V], and its loss.

The names of the submodules are those of the parameter table in `lm_core.model.parameters`.
"""

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from lm_core.config import ModelConfig
from lm_mlx.layers import Block, Embedding, KVCache, Linear, Norm, dropout


class LanguageModel(nn.Module):
    """A decoder-only Transformer. `dtype` is the type of the activations; parameters are float32."""

    def __init__(self, config: ModelConfig, dtype: mx.Dtype = mx.float32):
        super().__init__()
        self.config, self.dtype = config, dtype
        self.embed = Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.pos_embed = Embedding(config.seq_len, config.d_model)
        self.blocks = [Block(config, i) for i in range(config.n_layers)]
        self.norm = Norm(config)
        if not config.tie_embeddings:
            self.lm_head = Linear(config.d_model, config.vocab_size, config.head_bias)

    def __call__(
        self, ids: mx.array, key: mx.array | None = None, caches: Sequence[KVCache] | None = None, offset: int = 0
    ) -> mx.array:
        """Logits in float32.

        Args:
            ids: [B, T].
            key: the step's dropout key; without one nothing is dropped.
            caches: one per layer; then `ids` are the positions from `offset` on (all of them, or one).
            offset: how many positions the caches hold.
        """
        x = self.embed(ids)
        if "pos_embed" in self:
            x = x + self.pos_embed.weight[offset : offset + ids.shape[1]]
        x = dropout(x.astype(self.dtype), self.config.dropout, key, 0)
        for i, block in enumerate(self.blocks):
            x = block(x, key, None if caches is None else caches[i], offset)
        x = self.norm(x)
        if "lm_head" not in self:
            return (x @ self.embed.weight.astype(x.dtype).T).astype(mx.float32)
        return self.lm_head(x).astype(mx.float32)

    def loss(self, ids: mx.array, targets: mx.array, key: mx.array | None = None) -> mx.array:
        """Mean cross-entropy in nats of targets [B, T] given ids [B, T]."""
        return nn.losses.cross_entropy(self(ids, key), targets, reduction="mean")
