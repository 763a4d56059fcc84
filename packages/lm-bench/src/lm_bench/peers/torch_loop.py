"""A plain GPT and training loop in PyTorch, in the manner of nanoGPT: one matrix for queries, keys and values.

Axes: B batch, T time, D model, N heads, H head, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_bench.peers import check_plain
from lm_core.backend import NumpyArrays
from lm_core.config import AdamWConfig, ModelConfig, StepConfig
from lm_core.data.batches import Batch


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.n_heads = c.n_heads
        self.qkv_proj = nn.Linear(c.d_model, 3 * c.d_model, bias=c.bias)
        self.o_proj = nn.Linear(c.d_model, c.d_model, bias=c.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        B, T, D = x.shape
        q, k, v = self.qkv_proj(x).split(D, dim=2)
        q = q.view(B, T, self.n_heads, D // self.n_heads).transpose(1, 2)
        k = k.view(B, T, self.n_heads, D // self.n_heads).transpose(1, 2)
        v = v.view(B, T, self.n_heads, D // self.n_heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).contiguous().view(B, T, D))


class MLP(nn.Module):
    """Up, GELU, down."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.up_proj = nn.Linear(c.d_model, c.ff_dim, bias=c.bias)
        self.gelu = nn.GELU(approximate="tanh" if c.mlp == "gelu_tanh" else "none")
        self.down_proj = nn.Linear(c.ff_dim, c.d_model, bias=c.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        return self.down_proj(self.gelu(self.up_proj(x)))


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.attn_norm = nn.LayerNorm(c.d_model, eps=c.norm_eps, bias=c.bias)
        self.attn = Attention(c)
        self.mlp_norm = nn.LayerNorm(c.d_model, eps=c.norm_eps, bias=c.bias)
        self.mlp = MLP(c)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        x = x + self.attn(self.attn_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """Ids to loss."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.embed = nn.Embedding(c.vocab_size, c.d_model)
        self.pos_embed = nn.Embedding(c.seq_len, c.d_model)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_layers))
        self.norm = nn.LayerNorm(c.d_model, eps=c.norm_eps, bias=c.bias)
        self.lm_head = nn.Linear(c.d_model, c.vocab_size, bias=c.head_bias)
        if c.tie_embeddings:
            self.lm_head.weight = self.embed.weight

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """ids [B, T], targets [B, T] -> mean loss in nats."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.embed(ids) + self.pos_embed(positions)
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def load_weights(model: GPT, c: ModelConfig, weights: NumpyArrays) -> None:
    """Copy the table's arrays in, joining the three projections; a name too few or too many is an error."""
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    for i in range(c.n_layers):
        for kind in ("weight", "bias") if c.bias else ("weight",):
            parts = [tensors.pop(f"blocks.{i}.attn.{which}_proj.{kind}") for which in "qkv"]
            tensors[f"blocks.{i}.attn.qkv_proj.{kind}"] = torch.cat(parts)
    if c.tie_embeddings:
        tensors["lm_head.weight"] = tensors["embed.weight"]
    model.load_state_dict(tensors)


class Loop:
    """nanoGPT's loop body around any module that maps ids and targets to the mean loss.

    Args:
        model: in float32, on the CPU.
        optimizer: what torch.optim.AdamW is to do.
        step: type (bfloat16 is autocast), device, compile and clipping.
        fused: the one-kernel AdamW; otherwise torch's default.
    """

    def __init__(self, model: nn.Module, optimizer: AdamWConfig, step: StepConfig, fused: bool = False):
        self.device = torch.device("cuda" if step.device != "cpu" and torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        self.params = [param for param in model.parameters() if param.requires_grad]
        self.adamw = torch.optim.AdamW(
            decay_groups(self.params, optimizer),
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            fused=fused or None,
        )
        self.forward = torch.compile(self.model) if step.compile else self.model
        self.half, self.grad_clip = step.dtype == "bfloat16", optimizer.grad_clip

    def _loss(self, batch: Batch) -> Tensor:
        ids = torch.from_numpy(batch.inputs).to(self.device, torch.int64)
        targets = torch.from_numpy(batch.targets).to(self.device, torch.int64)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            return self.forward(ids, targets)

    def forward_backward(self, batch: Batch) -> Tensor:
        """The loss; its gradients are left on the parameters."""
        loss = self._loss(batch)
        self.adamw.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    def step(self, batch: Batch, lr: float) -> Tensor:
        """The loss before one optimizer step."""
        for group in self.adamw.param_groups:
            group["lr"] = lr
        loss = self.forward_backward(batch)
        if self.grad_clip:
            nn.utils.clip_grad_norm_(self.params, self.grad_clip)
        self.adamw.step()
        # "flush the gradients as soon as we can, no need for this memory anymore", nanoGPT's train.py
        self.adamw.zero_grad(set_to_none=True)
        return loss

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        """The loss alone."""
        return self._loss(batch)


def decay_groups(params: list[nn.Parameter], optimizer: AdamWConfig) -> list[dict[str, Any]]:
    """nanoGPT's: what has two axes decays, biases and norms do not."""
    assert not optimizer.weight_decay or set(optimizer.decay_groups) == {"matrix", "embed"}
    matrices = [param for param in params if param.dim() >= 2]
    vectors = [param for param in params if param.dim() < 2]
    return [
        {"params": matrices, "weight_decay": optimizer.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def plain_loop(
    model: ModelConfig, optimizer: AdamWConfig, step: StepConfig, weights: NumpyArrays, fused: bool = False
) -> Loop:
    """The loop around the plain GPT of this file, from `weights`."""
    check_plain(model)
    gpt = GPT(model)
    load_weights(gpt, model, weights)
    return Loop(gpt, optimizer, step, fused)
