"""Runs of a session over a backend of plain numpy, of a model of a few numbers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from lm_core.backend import Backend
from lm_core.config import AdamWConfig, Config, LoopConfig, ModelConfig, ScheduleConfig, StepConfig
from lm_core.data.batches import Batch, LengthRule, RandomWindows, frozen_batch
from lm_core.model.parameters import parameter_table
from lm_core.optim import state_shapes
from lm_core.run import session
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan, Sample
from lm_core.run.resume import Policy
from lm_core.run.state import RunState

MODEL = ModelConfig(vocab_size=7, seq_len=4, d_model=2, n_layers=1, n_heads=1)
OPTIMIZER = AdamWConfig()
TOKENS = np.arange(60) % 7
POLICY = Policy(refused="seed", recorded="rate", no_effect="", call="resume")


class AppConfig(Config):
    seed: int = 0
    rate: float = 0.1
    resume: bool = False


class TextConfig(AppConfig):
    text: str = ""


POLICY_OF_TEXT = Policy(refused="seed", recorded="rate text", no_effect="", call="resume")


class Still:
    """A trainer that counts its steps in its optimizer's state, and learns nothing else."""

    def __init__(self, weights: Mapping[str, Any]):
        self.arrays = dict(weights)
        self.state = {name: np.zeros(shape, np.float32) for name, shape in state_shapes(OPTIMIZER, TABLE).items()}
        self.taken = 0
        self.chosen = dict[str, str]()

    def choices(self) -> dict[str, str]:
        return self.chosen

    def repeat(self, choices: Mapping[str, str]) -> None:
        self.chosen |= {"kernel": choices["kernel"]}

    def step(self, batch: Batch, lr: float) -> dict[str, Any]:
        self.taken += 1
        return {"loss_nats": 1 / self.taken, "grad_norm": 1.0, "grad_norms": np.ones(len(TABLE))}

    def diagnostics(self) -> dict[str, Any]:
        return {}

    def evaluate(self, batch: Batch) -> float:
        return 2.0

    def snapshot(self) -> Callable[[], tuple[dict[str, Any], dict[str, Any]]]:
        state = self.state | {"step": np.array(self.taken)} if "step" in self.state else self.state
        return lambda: (self.arrays, state)

    def load(self, weights: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        self.arrays, self.state = dict(weights), dict(state)


TABLE = parameter_table(MODEL)


class Numpy:
    name, room = "numpy", None

    def build(self, model: Any, optimizer: Any, step: Any, weights: Mapping[str, Any], seed: int) -> Still:
        return Still(weights)

    def describe(self, step: Any) -> str:
        return "numpy on paper"

    def memory(self, step: Any) -> int | None:
        return self.room

    def peak_memory(self, step: Any) -> int:
        return 1

    def peak_flops(self, step: Any) -> None:
        return None


class Letters:
    name, fingerprint = "letters", "abc"

    def save(self, folder: Path) -> None:
        (folder / "letters.json").write_text(self.fingerprint)

    def is_saved_in(self, folder: Path) -> bool | None:
        try:
            return (folder / "letters.json").read_text() == self.fingerprint
        except FileNotFoundError:
            return None


def plan_of(config: AppConfig = AppConfig(), steps: int = 4, **more: Any) -> Plan:  # noqa: B008
    kept: dict[str, Any] = {
        "config": config,
        "policy": POLICY,
        "command": "app --steps 4",
        "resume_command": "app --resume",
        "backend": "numpy",
        "seed": config.seed,
        "model": MODEL,
        "optimizer": OPTIMIZER,
        "step": StepConfig(),
        "schedule": schedule_of(config),
        "loop": LoopConfig(max_steps=steps, save_every=2),
        "batches": RandomWindows(TOKENS, 2, LengthRule(4, 4), config.seed),
        "evaluation": [frozen_batch(TOKENS, 2, 4, 0)],
        "data": "the letters",
        "training_tokens": len(TOKENS),
        "tokenizer": Letters(),
        "sample": Sample(lambda _, step: f"text of {step}", "temperature 1", at_saves=True),
        "next_steps": lambda folder: [f"sample: {folder}"],
    }
    return Plan(**kept | more)


def schedule_of(config: AppConfig) -> ScheduleConfig:
    return ScheduleConfig(peak_lr=config.rate)


def run(plan: Plan, folder: RunFolder, *, resume: bool = False, backend: Any = None) -> RunState:
    with session.opened(folder, AppConfig, POLICY, resume=resume) as known:
        if known:
            plan = replace(plan, checkpoint=known.checkpoint)
        return session.run(plan, folder, backend=cast("Backend", backend or Numpy()))


def content(folder: RunFolder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.path.rglob("*") if p.is_file() and p.name != "lock"}
