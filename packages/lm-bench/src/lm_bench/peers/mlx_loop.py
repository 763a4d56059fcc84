"""A plain GPT and training step in MLX, in the manner of its documentation: `mlx.nn` layers, `mlx.optimizers`.

Load the backend "mlx" before this module: on Linux it gives MLX the system's OpenBLAS, and both sides must have it.

Axes: B batch, T time, D model, N heads, H head, V vocabulary.
"""

from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn, optimizers
from mlx.utils import tree_map

from lm_bench.peers import check_plain
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


class Loop:
    """The body of the documentation's training loop.

    Args:
        gpt: in float32.
        optimizer: what mlx.optimizers' AdamW is to do.
        step: type (bfloat16 is computed from float32 master weights) and compile.
    """

    def __init__(self, gpt: GPT, optimizer: AdamWConfig, step: StepConfig):
        self.gpt, self.adamw = gpt, adamw_of(optimizer)
        self.half, self.grad_clip = step.dtype == "bfloat16", optimizer.grad_clip
        self.adamw.init(gpt.trainable_parameters())
        self.state: dict[str, Any] = {"params": gpt.trainable_parameters(), "adamw": self.adamw.state}
        self.value_and_grad = mx.value_and_grad(self._loss)
        self.kernel = self._update
        if step.compile:
            self.kernel = partial(mx.compile, inputs=self.state, outputs=self.state)(self._update)

    def _loss(self, params: Any, ids: mx.array, targets: mx.array) -> mx.array:
        self.gpt.update(tree_map(lambda p: p.astype(mx.bfloat16), params) if self.half else params)
        return nn.losses.cross_entropy(self.gpt(ids).astype(mx.float32), targets, reduction="mean")

    def _update(self, ids: mx.array, targets: mx.array) -> mx.array:
        loss, grads = self.value_and_grad(self.state["params"], ids, targets)
        if self.grad_clip:
            grads, _ = optimizers.clip_grad_norm(grads, self.grad_clip)
        updated = self.adamw.apply_gradients(grads, self.state["params"])
        # MultiOptimizer merges its halves in the order of a set, and mx.compile tells arrays by their order alone.
        self.state["params"] = tree_map(lambda _, new: new, self.state["params"], updated)
        return loss

    def forward_backward(self, batch: Batch) -> mx.array:
        """The loss; its gradients are made and dropped."""
        loss, grads = self.value_and_grad(self.state["params"], mx.array(batch.inputs), mx.array(batch.targets))
        mx.eval(loss, grads)
        return loss

    def step(self, batch: Batch, lr: float) -> mx.array:
        """The loss before one optimizer step."""
        self.adamw.learning_rate = lr
        loss = self.kernel(mx.array(batch.inputs), mx.array(batch.targets))
        mx.eval(loss, self.state)
        return loss

    def evaluate(self, batch: Batch) -> mx.array:
        """The loss alone."""
        return self._loss(self.state["params"], mx.array(batch.inputs), mx.array(batch.targets))


def adamw_of(optimizer: AdamWConfig) -> optimizers.Optimizer:
    """AdamW; where there is decay, of what has two axes, as in nanoGPT."""
    assert not optimizer.weight_decay or set(optimizer.decay_groups) == {"matrix", "embed"}

    def adamw(decay: float) -> optimizers.Optimizer:
        betas = [optimizer.beta1, optimizer.beta2]
        return optimizers.AdamW(0.0, betas=betas, eps=optimizer.eps, weight_decay=decay, bias_correction=True)

    if not optimizer.weight_decay:
        return adamw(0.0)
    return optimizers.MultiOptimizer([adamw(optimizer.weight_decay), adamw(0.0)], [lambda _, param: param.ndim >= 2])


def plain_loop(
    model: ModelConfig, optimizer: AdamWConfig, step: StepConfig, weights: NumpyArrays, fused: bool = False
) -> Loop:
    """The loop around the plain GPT of this file, from `weights`; MLX has no fused AdamW."""
    check_plain(model)
    assert not fused, "MLX has no fused AdamW"
    gpt = GPT(model)
    gpt.load_weights([(name, mx.array(array)) for name, array in weights.items()])
    return Loop(gpt, optimizer, step)
