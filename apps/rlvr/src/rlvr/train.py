"""`uv run apps/rlvr train`: a pretrained model improves by its own answers; flags -> plan -> session."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from lm_core.backend import Trainer, load_backend
from lm_core.config import AdamWConfig, LoopConfig, PolicyGradientConfig, SamplingConfig, StepConfig
from lm_core.data.batches import Batches
from lm_core.rng import key32
from lm_core.rollouts import Rollouts
from lm_core.run.about import command_line, resume_line
from lm_core.run.app import App
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan, Sample
from lm_core.run.resume import Policy
from lm_core.terminal import aligned
from lm_pipeline.saved_model import SavedModel
from rlvr.answers import complete
from rlvr.demonstrations import Demonstrations, Noise
from rlvr.flags import TrainingFlags, schedule_of
from rlvr.pretrain import PretrainFlags
from rlvr.problems import TaskProblems
from rlvr.saved import config_of, read_model, warn_if_unfinished
from rlvr.tasks.registry import Mixture
from rlvr.tasks.reward import reward
from rlvr.vocabulary import END, END_ID, VOCABULARY

COMMAND = "uv run apps/rlvr train"
_SHOWN = 8
"""Held-out problems whose answers are shown at the end."""


class TrainFlags(TrainingFlags):
    """Train a pretrained model on what a checker says of its own answers."""

    table: ClassVar[str] = "train"

    tasks: tuple[str, ...] = ()
    """Tasks; those of the pretraining when none is named."""
    min_level: int = Field(0, ge=0)
    """Easiest level of the problems; 0: that of the pretraining."""
    max_level: int = Field(0, ge=0)
    """Hardest level; 0: that of the pretraining."""
    pretrained: str = ""
    """Run folder to start from; or a folder of one for each seed, as --seeds makes them, of which that of --seed."""
    algorithm: Literal["reinforce", "rloo", "grpo", "dr_grpo", "rejection", "supervised"] = "rloo"
    """Policy gradients: reinforce, with a baseline from all answers, rloo, from the others to the same prompt, grpo, in
    their standard deviations and per token, dr_grpo, without these divisions. For comparison: rejection (expert
    iteration) imitates the right answers, supervised more demonstrations of the kind that the pretraining had."""
    prompts: int = Field(64, gt=0)
    """Prompts of a rollout."""
    samples: int = Field(8, gt=0)
    """Answers to each prompt."""
    updates: int = Field(1, gt=0)
    """Optimizer steps on one rollout, the later ones with clipped ratios; divides steps and save_every."""
    answer_length: int = Field(16, gt=0)
    """Characters of an answer at most, its end included."""
    format_reward: float = 0.0
    """Reward of an answer in the task's format, besides 1 for a right one."""
    length_reward: float = 0.0
    """Reward of an answer that is as long as the solution."""
    kl: float = Field(0.0, ge=0)
    """Weight of the divergence from the pretrained model, in nats."""
    kl_in: Literal["reward", "loss"] = "reward"
    """reward: taken off the reward; loss: GRPO's term of each token."""
    entropy: float = Field(0.0, ge=0)
    """Weight of the entropy, in nats of an answer, added to the reward."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """How much less likely a token becomes on one rollout before it is left alone, as a part of what it was."""
    clip_high: float = Field(0.2, gt=0)
    """How much more likely, likewise."""
    steps: int = Field(300, gt=0)
    """Optimizer steps."""
    lr: float = Field(5e-4, gt=0)
    """Peak learning rate; a warm-up of 5% of the steps, then a cosine to a tenth."""
    save_every: int = Field(50, ge=0)
    """Steps between checkpoints; 0: only at the end and on Ctrl-C."""
    log_every: int = Field(1, ge=0)
    """Steps between training records; 0: the first step alone."""


POLICY = Policy(
    refused="tasks min_level max_level pretrained algorithm prompts samples updates answer_length seed",
    recorded="""
        steps lr format_reward length_reward kl kl_in entropy clip_low clip_high
        backend device dtype matmul_precision deterministic compile
    """,
    no_effect="save_every log_every parallel cuda_graph",
    call="save_dir resume config",
)


def plan(flags: TrainFlags, folder: RunFolder, argv: Sequence[str] = ()) -> Plan:
    """Decide a run in a folder; `argv` is what was typed, for the report.

    Raises:
        UserError: when flags contradict each other, a task does not do, or the model is of another vocabulary.
    """
    start = _pretrained(flags)
    model, before = read_model(start, "latest", "pretrained"), PretrainFlags.parse(config_of(start), start)
    if not flags.resume:
        warn_if_unfinished(start, before.steps)
    known = {name: getattr(flags, name) or getattr(before, name) for name in ("tasks", "min_level", "max_level")}
    origin = Path(start).resolve()
    flags = flags.model_copy(update={**known, "pretrained": str(origin)})
    mixture = flags.problems(model.config.seq_len)
    step = StepConfig.of(flags, device=flags.device, varying_length=True).model_copy(update={"cuda_graph": "off"})
    return Plan(
        config=flags,
        policy=POLICY,
        command=command_line(COMMAND, argv),
        resume_command=resume_line(COMMAND, folder.path, "--resume"),
        backend=flags.backend,
        seed=flags.seed,
        model=model.config,
        optimizer=AdamWConfig(beta2=0.99, grad_clip=1.0),
        step=step,
        schedule=schedule_of(flags),
        loop=LoopConfig(max_steps=flags.steps, log_every=flags.log_every, save_every=flags.save_every),
        batches=_batches(flags, model, step, mixture, before),
        data=f"{', '.join(flags.tasks)}, levels {flags.min_level} to {flags.max_level}, from {origin.name}",
        training_tokens=flags.steps * flags.prompts * flags.samples * model.config.seq_len,
        metadata={"pretrained": {"sha1": _digest(model)}},
        content={"pretrained": "pretrained.sha1"},
        tokenizer=VOCABULARY,
        weights=model.weights,
        sample=Sample(_answers(mixture, model.config.seq_len, flags.seed), "held-out problems, temperature 1"),
        knobs={"batch_size": "--prompts"},
        next_steps=lambda path: [
            f"evaluate: uv run apps/rlvr evaluate --checkpoint {path} --before {start}",
            f"play:     uv run apps/rlvr play --checkpoint {path}",
        ],
    )


def _pretrained(flags: TrainFlags) -> str:
    """The run folder to start from; of a folder of seeds, this seed's."""
    own = Path(flags.pretrained) / f"seed-{flags.seed}"
    return str(own) if flags.pretrained and RunFolder(own).holds_run() else flags.pretrained


def _batches(
    flags: TrainFlags, model: SavedModel, step: StepConfig, mixture: Mixture, before: PretrainFlags
) -> Batches:
    seq_len, seed = model.config.seq_len, key32(flags.seed, "train")  # other problems than those of the pretraining
    if flags.algorithm == "supervised":
        noise = Noise(before.wrong, before.missing)
        return Demonstrations(mixture, noise, flags.prompts * flags.samples, seq_len, seed)
    keys = ("kl", "kl_in", "entropy", "clip_low", "clip_high", "updates")
    config = {"estimator": flags.algorithm, "group_size": flags.samples, **{key: getattr(flags, key) for key in keys}}
    return Rollouts(
        problems=TaskProblems(mixture, seed, {"format": flags.format_reward, "length": flags.length_reward}),
        config=PolicyGradientConfig.parse(config, "train"),
        groups=flags.prompts,
        longest=flags.answer_length,
        end_id=END_ID,
        seq_len=seq_len,
        vocab_size=VOCABULARY.vocab_size,
        seed=flags.seed,
        reference=lambda: load_backend(flags.backend).scorer(model.config, step, model.weights),
    )


def _digest(model: SavedModel) -> str:
    """Hash of the weights that the run starts from."""
    found = hashlib.sha1()
    for name in sorted(model.weights):
        found.update(model.weights[name].tobytes())
    return found.hexdigest()


def _answers(mixture: Mixture, seq_len: int, seed: int) -> Callable[[Trainer, int], str]:
    """What writes answers to held-out problems, with the checker's verdict."""

    def write(trainer: Trainer, step: int) -> str:
        problems = [mixture.problem(seed, number, "validation") for number in range(_SHOWN)]
        prompts = [problem.prompt for problem in problems]
        texts = complete(
            lambda rows: trainer.decoder(rows, VOCABULARY.vocab_size), prompts, seq_len, seed, SamplingConfig()
        )
        answered = list(zip(problems, texts, strict=True))
        verdicts = ["right" if reward(problem, text)["correct"] else "wrong" for problem, text in answered]
        return aligned([[p.prompt, t.removesuffix(END), said] for (p, t), said in zip(answered, verdicts, strict=True)])

    return write


APP: App[Any] = App(
    name=COMMAND,
    command=COMMAND,
    flags=TrainFlags,
    policy=POLICY,
    root=Path("runs") / "rlvr" / "train",
    plan=plan,
    schedule=schedule_of,
)
