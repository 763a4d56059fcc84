"""A run of a tiny model through the session: alone, or as one of the ranks that the environment names.

python rank_program.py FOLDER JSON
"""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lm_core.config import (
    AdamWConfig,
    Config,
    KBetaConfig,
    LoopConfig,
    ModelConfig,
    MuonConfig,
    OptimizerConfig,
    ScheduleConfig,
    StepConfig,
)
from lm_core.data.batches import SequentialWindows, ShuffledWindows
from lm_core.run import session
from lm_core.run.folder import RunFolder
from lm_core.run.log import TIMING_FIELDS, read_records
from lm_core.run.plan import Plan
from lm_core.run.ranks import exit_code_of
from lm_core.run.resume import Policy
from lm_core.world import current

POLICY = Policy(refused="", recorded="", no_effect="", call="")
TOKENS = np.random.default_rng(0).integers(0, 32, 3000) // 2
MODEL = ModelConfig(vocab_size=16, seq_len=8, d_model=16, n_layers=2, n_heads=2, dropout=0.2, bias=False)
OPTIMIZERS: dict[str, OptimizerConfig] = {
    "adamw": AdamWConfig(grad_clip=0.5),
    "kbeta": KBetaConfig(grad_clip=0.5, warmup_steps=2),
    "muon": MuonConfig(grad_clip=0.5),
}


class Empty(Config):
    """Nothing that a resume may change."""


class Letters:
    name, fingerprint = "letters", "abc"

    def save(self, folder: Path) -> None:
        (folder / "letters").write_text(self.fingerprint)

    def is_saved_in(self, folder: Path) -> bool | None:
        return True if (folder / "letters").exists() else None


def run(
    path: Path,
    *,
    backend: str = "torch",
    optimizer: str = "adamw",
    parallel: Any = "ddp",
    steps: int = 6,
    batch: int = 8,
) -> None:
    """Start the run in a folder, or resume it."""
    plan = Plan(
        config=Empty(),
        policy=POLICY,
        command="",
        resume_command="the same again",
        backend=backend,
        seed=3,
        model=MODEL,
        optimizer=OPTIMIZERS[optimizer],
        step=StepConfig(grad_accum_steps=2, parallel=parallel, device="cpu"),
        loop=LoopConfig(max_steps=steps, log_every=1, eval_every=3, save_every=2),
        schedule=ScheduleConfig(peak_lr=0.01),
        batches=ShuffledWindows(TOKENS, batch, 8, seed=1),
        evaluation=SequentialWindows(TOKENS[:400], 8, 8),
        data="numbers",
        training_tokens=len(TOKENS),
        tokenizer=Letters(),
        console=False,
    )
    folder = RunFolder(path)
    resume = current().of_first(folder.holds_run)
    with session.opened(folder, Empty, POLICY, resume=resume) as known:
        session.run(replace(plan, checkpoint=known.checkpoint) if known else plan, folder)


def records(path: Path) -> list[dict[str, Any]]:
    """The records of the run but for what a clock says."""
    found = read_records(path / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in TIMING_FIELDS} for record in found]


def curve(path: Path) -> list[float]:
    """Losses of its records, in their order."""
    return [record["loss_nats"] for record in records(path)]


def start(size: int, path: Path, **options: Any) -> list["subprocess.Popen[str]"]:
    """The ranks, as processes, without a launcher."""
    ports = []
    for _ in range(size):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    hosts = path.with_suffix(".hosts")
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    environments = [
        {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)}
        if options.get("backend") == "mlx"
        else {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
        | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[0])}
        for rank in range(size)
    ]
    return [
        subprocess.Popen(
            [sys.executable, __file__, str(path), json.dumps(options)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: run(Path(sys.argv[1]), **json.loads(sys.argv[2])), "run"))
