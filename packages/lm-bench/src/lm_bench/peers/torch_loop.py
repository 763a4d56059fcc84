"""A plain GPT and training step in PyTorch, in the manner of nanoGPT: one matrix for queries, keys and values.

Axes: B batch, T time, D model, N heads, H head, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_bench.peers import Step, check_plain
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


def bare_step(model: ModelConfig, optimizer: AdamWConfig, step: StepConfig, weights: NumpyArrays, lr: float) -> Step:
    """The body of a bare training loop."""
    check_plain(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpt = GPT(model).to(device)
    load_weights(gpt, model, weights)
    betas = (optimizer.beta1, optimizer.beta2)
    adamw = torch.optim.AdamW(gpt.parameters(), lr=lr, betas=betas, eps=optimizer.eps, weight_decay=0.0)
    forward = torch.compile(gpt) if step.compile else gpt
    half = step.dtype == "bfloat16"

    def train(batch: Batch) -> Tensor:
        ids = torch.from_numpy(batch.inputs).long().to(device)
        targets = torch.from_numpy(batch.targets).long().to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            loss = forward(ids, targets)
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        adamw.step()
        return loss.detach()

    return train
