"""`uv run apps/rlvr pretrain`: supervised training on noisy demonstrations; flags -> plan -> session."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import ClassVar

from pydantic import Field

from lm_core.config import AdamWConfig, LoopConfig, ModelConfig, StepConfig
from lm_core.run.about import command_line, resume_line
from lm_core.run.app import App
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan
from lm_core.run.resume import Policy
from rlvr.demonstrations import Demonstrations, Noise
from rlvr.flags import TrainingFlags, schedule_of
from rlvr.tasks.registry import absolute
from rlvr.vocabulary import VOCABULARY

COMMAND = "uv run apps/rlvr pretrain"


class PretrainFlags(TrainingFlags):
    """Train a model on demonstrations with mistakes, so that there is something to improve and to sample."""

    table: ClassVar[str] = "pretrain"

    wrong: float = Field(0.3, ge=0, lt=1)
    """Probability that what a demonstration computes is wrong in one character."""
    missing: float = Field(0.05, ge=0, lt=1)
    """Probability that a written-out step is left out."""
    seq_len: int = Field(48, gt=1)
    """Context of the model, in characters: prompt and completion."""
    d_model: int = Field(96, gt=0)
    """Width of the residual stream."""
    n_layers: int = Field(3, gt=0)
    """Blocks."""
    n_heads: int = Field(4, gt=0)
    """Attention heads; must divide d_model."""
    batch_size: int = Field(128, gt=0)
    """Demonstrations per step."""
    eval_batches: int = Field(4, ge=0)
    """Batches of held-out demonstrations in a validation; 0: none."""
    eval_every: int = Field(500, ge=0)
    """Steps between validations; 0: the first and the last alone."""
    save_every: int = Field(500, ge=0)
    """Steps between checkpoints; 0: only at the end and on Ctrl-C."""
    log_every: int = Field(50, ge=0)
    """Steps between training records; 0: the first step alone."""


POLICY = Policy(
    refused="tasks min_level max_level wrong missing seq_len d_model n_layers n_heads batch_size eval_batches seed",
    recorded="steps lr eval_every backend device dtype matmul_precision deterministic compile",
    no_effect="save_every log_every parallel cuda_graph",
    call="save_dir resume config",
)


def plan(flags: PretrainFlags, folder: RunFolder, argv: Sequence[str] = ()) -> Plan:
    """Decide a run in a folder; `argv` is what was typed, for the report.

    Raises:
        UserError: when flags contradict each other, or a task does not do.
    """
    model = ModelConfig.parse(
        {
            "vocab_size": VOCABULARY.vocab_size,
            **{key: getattr(flags, key) for key in ("seq_len", "d_model", "n_layers", "n_heads")},
        },
        "pretrain",
    )
    noise = Noise(flags.wrong, flags.missing)
    shape = flags.batch_size, flags.seq_len, flags.seed
    mixture = flags.problems(flags.seq_len)
    held_out = Demonstrations(mixture, noise, *shape, split="validation")
    return Plan(
        config=flags.model_copy(update={"tasks": tuple(map(absolute, flags.tasks))}),
        policy=POLICY,
        command=command_line(COMMAND, argv),
        resume_command=resume_line(COMMAND, folder.path, "--resume"),
        backend=flags.backend,
        seed=flags.seed,
        model=model,
        optimizer=AdamWConfig(beta2=0.99, weight_decay=0.1, grad_clip=1.0),
        step=StepConfig.of(flags, device=flags.device),
        schedule=schedule_of(flags),
        loop=LoopConfig(
            max_steps=flags.steps,
            log_every=flags.log_every,
            eval_every=flags.eval_every,
            save_every=flags.save_every,
            save_best=True,
        ),
        batches=Demonstrations(mixture, noise, *shape),
        evaluation=[held_out.batch(step + 1) for step in range(flags.eval_batches)],
        data=f"{', '.join(flags.tasks)}, levels {flags.min_level} to {flags.max_level}",
        training_tokens=flags.steps * flags.batch_size * flags.seq_len,
        tokenizer=VOCABULARY,
        knobs={"batch_size": "--batch_size", "seq_len": "--seq_len", "d_model": "--d_model"},
        next_steps=lambda path: [
            f"{name + ':':<9} uv run apps/rlvr {name} --checkpoint {quote(str(path))}" for name in ("evaluate", "play")
        ],
    )


APP = App(
    name=COMMAND,
    command=COMMAND,
    flags=PretrainFlags,
    policy=POLICY,
    root=Path("runs") / "rlvr" / "pretrain",
    plan=plan,
    schedule=schedule_of,
)
