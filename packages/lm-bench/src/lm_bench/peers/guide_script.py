"""The guide of apps/mini_gpt as a plain PyTorch script: torch.nn, torch.optim and tokenizers, in one file.

    python -m lm_bench.peers.guide_script --data_file FILE [--max_steps N ...]

What `train_bpe.py --use_cosine` does with the same flags: the same shape, hyperparameters, schedule, split, number of
rows and precision; windows are drawn at random with replacement, as such scripts do. The last line is JSON: steps,
validation loss in nats per token, tokens/s of the training steps, and seconds of the whole.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F


class GPT(nn.Module):
    """Pre-norm Transformer with learned positions and a tied head."""

    def __init__(self, vocab_size: int, flags: argparse.Namespace) -> None:
        super().__init__()
        width, layers = flags.n_embed, flags.n_layer
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(flags.block_size, width)
        self.drop = nn.Dropout(flags.dropout)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                flags.n_head,
                4 * width,
                flags.dropout,
                lambda x: F.gelu(x, approximate="tanh"),
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        self.mask: torch.Tensor
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(flags.block_size))
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                is_output = name.endswith(("out_proj.weight", "linear2.weight"))
                nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * layers) if is_output else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss in nats of [B, T] ids."""
        length = inputs.shape[1]
        x = self.drop(self.tokens(inputs) + self.positions(torch.arange(length, device=inputs.device)))
        for block in self.blocks:
            x = block(x, src_mask=self.mask[:length, :length], is_causal=True)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main() -> None:
    """Train, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_file", required=True)
    for name, default in {
        "vocab_size": 8000, "block_size": 256, "n_layer": 6, "n_embed": 384, "n_head": 6, "batch_size": 128,
        "grad_accum_steps": 2, "max_steps": 3000, "warmup_steps": 200, "eval_every": 250, "seed": 0,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, rate in {"dropout": 0.1, "base_lr": 1e-3, "min_factor": 0.1}.items():
        parser.add_argument(f"--{name}", type=float, default=rate)
    flags = parser.parse_args()
    started = time.perf_counter()
    torch.manual_seed(flags.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    text = Path(flags.data_file).read_text()
    cut = int(0.9 * len(text))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=flags.vocab_size,
        special_tokens=["<pad>", "<unk>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text[:cut]], trainer)
    train, validation = (torch.tensor(tokenizer.encode(part).ids) for part in (text[:cut], text[cut:]))

    model = GPT(tokenizer.get_vocab_size(), flags).to(device)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.99)
    )

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(train) - flags.block_size, (flags.batch_size,))
        rows = torch.stack([train[start : start + flags.block_size + 1] for start in starts]).to(device)
        return rows[:, :-1], rows[:, 1:]

    @torch.no_grad()
    def evaluate() -> float:
        model.eval()
        windows = (len(validation) - 1) // flags.block_size
        inputs = validation[: windows * flags.block_size].view(windows, -1)
        targets = validation[1 : windows * flags.block_size + 1].view(windows, -1)
        total = 0.0
        for first in range(0, windows, flags.batch_size):
            rows = slice(first, first + flags.batch_size)
            total += model(inputs[rows].to(device), targets[rows].to(device)).item() * len(inputs[rows])
        model.train()
        return total / windows

    training, best = 0.0, math.inf
    for step in range(flags.max_steps):
        began = time.perf_counter()
        if step < flags.warmup_steps:
            factor = (step + 1) / flags.warmup_steps
        else:
            done = (step - flags.warmup_steps) / (flags.max_steps - flags.warmup_steps)
            factor = flags.min_factor + 0.5 * (1 - flags.min_factor) * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = factor * flags.base_lr
        for _ in range(flags.grad_accum_steps):
            loss = model(*batch()) / flags.grad_accum_steps
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        training += time.perf_counter() - began
        if (step + 1) % flags.eval_every == 0 or step + 1 == flags.max_steps:
            last = evaluate()
            best = min(best, last)
            print(
                f"step {step + 1}: train {loss.item() * flags.grad_accum_steps:.4f}, validation {last:.4f}", flush=True
            )
    tokens = flags.max_steps * flags.grad_accum_steps * flags.batch_size * flags.block_size
    result = {
        "steps": flags.max_steps,
        "val_loss": last,
        "best_val_loss": best,
        "tokens_per_second": tokens / training,
        "seconds": time.perf_counter() - started,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
