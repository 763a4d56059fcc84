"""A plain GPT and training step in MLX, in the manner of its documentation: `mlx.nn` layers, `mlx.optimizers`.

Load the backend "mlx" before this module: on Linux it gives MLX the system's OpenBLAS, and both sides must have it.

Axes: B batch, T time, D model, N heads, H head, V vocabulary.
"""

from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn, optimizers
from mlx.utils import tree_map

from lm_bench.peers import Step, check_plain
from lm_core.backend import NumpyArrays
from lm_core.config import AdamWConfig, ModelConfig, StepConfig
from lm_core.data.batches import Batch


class Attention(nn.Module):
    """Causal self-attention, with the separate projections of `mlx.nn.MultiHeadAttention`."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.n_heads = c.n_heads
        self.scale = c.head_dim**-0.5
        self.q_proj = nn.Linear(c.d_model, c.d_model, bias=c.bias)
        self.k_proj = nn.Linear(c.d_model, c.d_model, bias=c.bias)
        self.v_proj = nn.Linear(c.d_model, c.d_model, bias=c.bias)
        self.o_proj = nn.Linear(c.d_model, c.d_model, bias=c.bias)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, T, D] -> [B, T, D]."""
        B, T, D = x.shape
        q = self.q_proj(x).reshape(B, T, self.n_heads, -1).transpose(0, 2, 1, 3)
        k = self.k_proj(x).reshape(B, T, self.n_heads, -1).transpose(0, 2, 1, 3)
        v = self.v_proj(x).reshape(B, T, self.n_heads, -1).transpose(0, 2, 1, 3)
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale, mask="causal")
        return self.o_proj(y.transpose(0, 2, 1, 3).reshape(B, T, D))


class MLP(nn.Module):
    """Up, GELU, down."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.up_proj = nn.Linear(c.d_model, c.ff_dim, bias=c.bias)
        self.down_proj = nn.Linear(c.ff_dim, c.d_model, bias=c.bias)
        self.tanh_form = c.mlp == "gelu_tanh"

    def __call__(self, x: mx.array) -> mx.array:
        """[B, T, D] -> [B, T, D]."""
        gelu = nn.gelu_approx if self.tanh_form else nn.gelu
        return self.down_proj(gelu(self.up_proj(x)))


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.attn_norm = nn.LayerNorm(c.d_model, eps=c.norm_eps, bias=c.bias)
        self.attn = Attention(c)
        self.mlp_norm = nn.LayerNorm(c.d_model, eps=c.norm_eps, bias=c.bias)
        self.mlp = MLP(c)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, T, D] -> [B, T, D]."""
        x = x + self.attn(self.attn_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """Ids to logits."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.embed = nn.Embedding(c.vocab_size, c.d_model)
        self.pos_embed = nn.Embedding(c.seq_len, c.d_model)
        self.blocks = [Block(c) for _ in range(c.n_layers)]
        self.norm = nn.LayerNorm(c.d_model, eps=c.norm_eps, bias=c.bias)
        if not c.tie_embeddings:
            self.lm_head = nn.Linear(c.d_model, c.vocab_size, bias=c.head_bias)

    def __call__(self, ids: mx.array) -> mx.array:
        """[B, T] -> [B, T, V]."""
        x = self.embed(ids) + self.pos_embed(mx.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.lm_head(x) if "lm_head" in self else self.embed.as_linear(x)


def loss_fn(model: GPT, ids: mx.array, targets: mx.array) -> mx.array:
    """Mean loss in nats."""
    return nn.losses.cross_entropy(model(ids), targets, reduction="mean")


def bare_step(model: ModelConfig, optimizer: AdamWConfig, step: StepConfig, weights: NumpyArrays, lr: float) -> Step:
    """The body of a bare training loop."""
    check_plain(model)
    gpt = GPT(model)
    gpt.load_weights([(name, mx.array(array)) for name, array in weights.items()])
    adamw = optimizers.AdamW(
        lr, betas=[optimizer.beta1, optimizer.beta2], eps=optimizer.eps, weight_decay=0.0, bias_correction=True
    )
    adamw.init(gpt.trainable_parameters())
    if step.dtype == "bfloat16":
        return _mixed_step(gpt, adamw, step)
    value_and_grad = nn.value_and_grad(gpt, loss_fn)

    def update(ids: mx.array, targets: mx.array) -> mx.array:
        loss, grads = value_and_grad(gpt, ids, targets)
        adamw.update(gpt, grads)
        return loss

    state = [gpt.state, adamw.state]
    kernel = partial(mx.compile, inputs=state, outputs=state)(update) if step.compile else update

    def train(batch: Batch) -> mx.array:
        loss = kernel(mx.array(batch.inputs), mx.array(batch.targets))
        mx.eval(loss, gpt.state, adamw.state)
        return loss

    return train


def _mixed_step(gpt: GPT, adamw: optimizers.AdamW, step: StepConfig) -> Step:
    """Master weights in float32, forward and backward in bfloat16."""
    state: dict[str, Any] = {"params": gpt.trainable_parameters(), "adamw": adamw.state}

    def half_loss(params: Any, ids: mx.array, targets: mx.array) -> mx.array:
        gpt.update(tree_map(lambda p: p.astype(mx.bfloat16), params))
        return nn.losses.cross_entropy(gpt(ids).astype(mx.float32), targets, reduction="mean")

    value_and_grad = mx.value_and_grad(half_loss)

    def update(ids: mx.array, targets: mx.array) -> mx.array:
        loss, grads = value_and_grad(state["params"], ids, targets)
        state["params"] = adamw.apply_gradients(grads, state["params"])
        return loss

    kernel = partial(mx.compile, inputs=state, outputs=state)(update) if step.compile else update

    def train(batch: Batch) -> mx.array:
        loss = kernel(mx.array(batch.inputs), mx.array(batch.targets))
        mx.eval(loss, state)
        return loss

    return train
