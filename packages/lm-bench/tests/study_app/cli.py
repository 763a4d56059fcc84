"""The program: a session as every app has it, over a trainer whose loss depends on all that a study varies."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from lm_core.cli import parse_flags
from lm_core.config import AdamWConfig, KBetaConfig, LoopConfig, ModelConfig, ScheduleConfig, StepConfig
from lm_core.data.batches import LengthRule, RandomWindows, frozen_batch
from lm_core.errors import UserError
from lm_core.model.parameters import parameter_table
from lm_core.optim import state_shapes
from lm_core.run import session
from lm_core.run.app import RunFlags
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan
from lm_core.run.resume import Policy

MODEL = ModelConfig(vocab_size=7, seq_len=4, d_model=2, n_layers=1, n_heads=1)
TABLE = parameter_table(MODEL)
COUNT = "embed.weight"
"""Weight that counts the steps."""
TOKENS = np.arange(60) % 7
POLICY = Policy(refused="", recorded="", no_effect="", call="save_dir resume config")


class Flags(RunFlags):
    steps: int = 8
    lr: float = 0.1
    best_lr: float = 0.1
    opt: str = "adam"
    beta2: float = 0.9
    falling: bool = False
    schedule: str = ""
    evaluated: bool = True
    spoilt: str = ""
    pace: float = 0.0


class Trainer:
    """The loss is how far the logarithms of lr and best_lr are apart, over the steps, with noise of the seed."""

    def __init__(self, weights, flags):
        self.flags, self.arrays = flags, dict(weights)
        self.state = {
            name: np.zeros(shape, np.float32) for name, shape in state_shapes(_optimizer(flags), TABLE).items()
        }
        self.taken = 0.0

    def choices(self):
        return {}

    def step(self, batch, lr):
        self.arrays[COUNT] = self.arrays[COUNT] + np.float32(1)
        self.taken = float(self.arrays[COUNT].flat[0])
        time.sleep(self.flags.pace)
        trace(self.flags)
        if self.flags.spoilt == "memory":
            raise MemoryError("CUDA error: out of memory")
        if self.flags.spoilt == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        loss = float("nan") if self.flags.spoilt == "nan" else self.loss()
        return {"loss_nats": loss, "grad_norm": 1.0, "grad_norms": np.ones(len(TABLE))}

    def loss(self):
        noise = np.random.default_rng(self.flags.seed).normal() / 100
        beta2 = -self.flags.beta2 if self.flags.falling else self.flags.beta2
        return float(np.log(self.flags.lr / self.flags.best_lr) ** 2 + beta2 + noise + 1 / (1 + self.taken))

    def diagnostics(self):
        return {}

    def evaluate(self, batch):
        return self.loss()

    def snapshot(self):
        both = dict(self.arrays), dict(self.state)
        return lambda: both

    def load(self, weights, state):
        self.arrays, self.state = dict(weights), dict(state)
        self.taken = float(self.arrays[COUNT].flat[0])


class Trainers:
    """Trainers of several seeds, as one."""

    def __init__(self, trainers):
        self.trainers = trainers

    def step(self, batches, lr):
        return [trainer.step(batch, lr) for trainer, batch in zip(self.trainers, batches, strict=True)]

    def evaluate(self, batches):
        return [trainer.evaluate(batch) for trainer, batch in zip(self.trainers, batches, strict=True)]

    def diagnostics(self, which):
        return {}

    def weights(self, which):
        return dict(self.trainers[which].arrays)

    def optimizer_state(self, which):
        return {**self.trainers[which].state, "step": np.array(self.trainers[which].taken)}

    def load(self, weights, states):
        for trainer, arrays, state in zip(self.trainers, weights, states, strict=True):
            trainer.load(arrays, state)


class Backend:
    name = "numpy"

    def __init__(self, flags):
        self.flags = flags

    def build(self, model, optimizer, step, weights, seed):
        return Trainer({name: np.zeros_like(array) for name, array in weights.items()}, self.flags)

    def build_seeds(self, model, optimizer, step, weights, seeds):
        folder = Path(self.flags.save_dir).parent
        flags = [self.flags.model_copy(update={"seed": seed, "save_dir": f"{folder}/{seed}"}) for seed in seeds]
        return Trainers(
            [Backend(each).build(model, optimizer, step, w, 0) for each, w in zip(flags, weights, strict=True)]
        )

    def describe(self, step):
        return "numpy on paper"

    def memory(self, step):
        return None

    def peak_memory(self, step):
        return 1

    def peak_flops(self, step):
        return None


class Letters:
    name, fingerprint = "letters", "abc"

    def save(self, folder: Path) -> None:
        (folder / "letters.json").write_text(self.fingerprint)

    def is_saved_in(self, folder: Path) -> bool | None:
        return True if (folder / "letters.json").exists() else None


def trace(flags) -> None:
    """Note a step in the file of the environment."""
    if path := os.environ.get("STUDY_TRACE"):
        with Path(path).open("a") as file:
            file.write(f"{Path(flags.save_dir).name}\n")


def _optimizer(flags):
    if flags.opt == "kbeta":
        return KBetaConfig.parse({"beta2_max": flags.beta2, "eps": 1e-6}, "--beta2")
    return AdamWConfig.parse({"beta2": flags.beta2}, "--beta2")


def plan(flags, folder, argv=()):
    if flags.spoilt == "mistake":
        raise UserError("--spoilt: a mistake")
    return Plan(
        config=flags,
        policy=POLICY,
        command="study_app",
        resume_command="study_app --resume",
        backend=flags.backend,
        seed=flags.seed,
        model=MODEL,
        optimizer=_optimizer(flags),
        step=StepConfig(varying_length=flags.spoilt == "lengths"),
        schedule=ScheduleConfig(
            peak_lr=flags.lr, **({"kind": "piecewise", "points": flags.schedule} if flags.schedule else {})
        ),
        loop=LoopConfig(max_steps=flags.steps, save_every=2, log_every=1),
        batches=RandomWindows(TOKENS, 2, LengthRule(4, 4), flags.seed),
        evaluation=[frozen_batch(TOKENS, 2, 4, 0)] if flags.evaluated else [],
        data="the letters",
        training_tokens=len(TOKENS),
        tokenizer=Letters(),
    )


def run(argv) -> None:
    flags = parse_flags(Flags, "study_app", argv)
    folder = RunFolder(Path(flags.save_dir))
    with session.opened(folder, Flags, POLICY, resume=flags.resume) as known:
        made = plan(flags, folder)
        made = made.resumed(known, lambda flags: made.schedule) if known else made
        session.run(made, folder, backend=Backend(flags))


APP = SimpleNamespace(flags=Flags, plan=plan, run=run)
