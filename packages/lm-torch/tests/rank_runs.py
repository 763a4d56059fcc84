"""Short trainings by one process or by several ranks, and what each of them leaves. Run as a program, it is one rank.

MASTER_PORT=... RANK=... WORLD_SIZE=... python rank_runs.py FILE CASE...    rank 0 writes the outcome of all cases
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lm_core.config import AdamWConfig, KBetaConfig, ModelConfig, MuonConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import LengthRule, RandomWindows, rank_batch
from lm_core.terminal import end
from lm_core.testing import rough_arrays
from lm_core.world import ALONE, World
from lm_torch.ranks import join
from lm_torch.step import TorchTrainer

MODEL = ModelConfig(vocab_size=31, seq_len=6, d_model=12, n_layers=2, n_heads=2, dropout=0.3, bias=False)
OPTIMIZERS: dict[str, OptimizerConfig] = {
    "adamw": AdamWConfig(grad_clip=0.4, weight_decay=0.1, average=0.9),
    "kbeta": KBetaConfig(grad_clip=0.4, warmup_steps=1, bias_correction="exact", adaptive_tiny=True),
    "muon": MuonConfig(grad_clip=0.4),
}
BATCHES = RandomWindows(np.arange(500) * 7 % 31, 8, LengthRule(6, 6), seed=2)
Outcome = dict[str, Any]


def trained(case: str, world: World, steps: int = 4) -> Outcome:
    """Losses, gradient norms and, at the end, weights and optimizer state; "optimizer parallel parts ..."."""
    optimizer, parallel, parts, *more = case.split()
    step = StepConfig(
        parallel=parallel, grad_accum_steps=int(parts), gradient_checkpointing="checkpointing" in more, device="cpu"
    )
    trainer = TorchTrainer(MODEL, OPTIMIZERS[optimizer], step, rough_arrays(MODEL), 5, torch.device("cpu"))
    figures = []
    for i in range(1, steps + 1):
        taken = trainer.step(rank_batch(BATCHES, i, world.rank, world.size, int(parts)), 0.02)
        trainer.evaluate(BATCHES.batch(7))  # weights that it gathers are not to be used after the next step
        figures.append([float(taken["loss_nats"]), float(taken["grad_norm"]), *taken["grad_norms"].tolist()])
    with trainer.averaged():
        average = float(trainer.evaluate(BATCHES.batch(9)))
    weights, state = trainer.snapshot()()
    return {"figures": figures, "average": average, "score": trainer.score(BATCHES.batch(9)).tolist()} | {
        name: array.tolist() for name, array in (weights | state).items()
    }


def listeners() -> list[str]:
    """Addresses on which this process listens, as Linux has them."""
    inodes = {link for path in Path("/proc/self/fd").iterdir() if (link := _link(path))}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                found.append(words[1].partition(":")[0])
    return found


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def start(size: int, arguments: list[str], port: int | None = None) -> list["subprocess.Popen[str]"]:
    """The ranks, as processes."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **shared, "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def main(path: str, *cases: str) -> None:
    world = join()
    found: dict[str, Any] = {case: trained(case, world) for case in cases}
    long = bytes(range(256)) * (world.rank + 1)
    found["gathered"] = [len(data) for data in world.gather(long)]
    found["whole"] = world.gather(long)[1] == bytes(range(256)) * 2
    every = world.of_all(listeners() if sys.platform == "linux" else [])
    found["listeners"] = [address for addresses in every for address in addresses]
    if world.is_first:
        Path(path).write_text(json.dumps(found))
    world.close()


__all__ = ["ALONE", "listeners", "start", "trained"]

if __name__ == "__main__":
    main(*sys.argv[1:])
    end(0)  # as programs of several ranks do: threads of torch may abort a process that takes itself apart
