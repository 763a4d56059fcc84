"""`uv run apps/rlvr evaluate`: held-out problems -> completions -> rewards -> pass@1 and pass@k by level.

Of each model the figures are printed, and written to `evaluation.json` in its run folder. The mean over several
runs, such as those of several seeds, has its own interval; with `before`, the same problems are shown as they were
answered before and after.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from lm_core.backend import Backend, load_backend
from lm_core.disk.files import write_whole
from lm_core.errors import UserError
from lm_core.policy_gradient import pass_at
from lm_core.terminal import aligned, put, say
from lm_pipeline.commands.evaluate import RESULT
from lm_pipeline.evaluation.evaluate import build
from lm_pipeline.program import run_program
from lm_pipeline.saved_model import SavedModel
from rlvr.answers import complete
from rlvr.intervals import student, wilson
from rlvr.saved import ReadFlags
from rlvr.tasks.registry import Mixture, check_length
from rlvr.tasks.reward import reward
from rlvr.tasks.task import Problem, Task
from rlvr.vocabulary import END

COMMAND = "uv run apps/rlvr evaluate"
Figures = dict[str, Any]
_DRAWN = 4
"""Indices per problem that is wanted: small levels repeat themselves, and a problem counts once."""


class EvaluateFlags(ReadFlags):
    """Measure how often answers to held-out problems are right, by level."""

    table: ClassVar[str] = "evaluate"

    checkpoint: tuple[str, ...] = ()
    """Run folders; of several, such as one for each seed, the mean is given too."""
    before: tuple[str, ...] = ()
    """Run folders that they started from, for comparison on the same problems."""
    problems_per_level: int = Field(100, gt=0)
    """Held-out problems of each task and level, at most: easy levels have fewer."""
    samples: int = Field(8, gt=0)
    """Completions of each problem."""
    k: int = Field(8, gt=0)
    """Of pass@k: the probability that one of k completions is right; at most samples."""
    show: int = Field(5, ge=0)
    """Problems whose completions are shown, with the checker's verdict."""
    rows: int = Field(256, gt=0)
    """Completions decoded at once; the figures do not depend on it."""


@dataclass(frozen=True)
class Answered:
    """A problem, what a model answered, and what that earned."""

    problem: Problem
    completions: list[str]
    rewards: list[dict[str, float]]

    @property
    def right(self) -> int:
        """How many of the completions are right."""
        return sum(int(components["correct"]) for components in self.rewards)


def held_out(mixture: Mixture, seed: int, count: int) -> list[Problem]:
    """Problems of the test split, each once: of every task and level as many as asked for, or as there are drawn."""
    found: list[Problem] = []
    for task in mixture.tasks:
        for level in range(task.lowest, task.highest + 1):
            alone: Task = type(task)(level, level)
            drawn = (alone.problem(seed, index, "test") for index in range(_DRAWN * count))
            found += list({problem.question: problem for problem in drawn}.values())[:count]
    return found


def answer(model: SavedModel, backend: Backend, problems: Sequence[Problem], flags: EvaluateFlags) -> list[Answered]:
    """What a model answers, `samples` times each.

    Raises:
        UserError: when a problem does not fit its context, or a checker fails.
    """
    seq_len = model.config.seq_len
    for problem in problems:
        check_length(problem, seq_len)
    scorer = build(model, backend, flags.step)
    prompts = [problem.prompt for problem in problems for _ in range(flags.samples)]
    completions = complete(
        lambda rows: scorer.decoder(rows, model.tokenizer.vocab_size),
        prompts,
        seq_len,
        flags.seed,
        flags.sampling,
        flags.rows,
    )
    groups = (completions[i : i + flags.samples] for i in range(0, len(completions), flags.samples))
    return [
        Answered(problem, group, [reward(problem, text) for text in group])
        for problem, group in zip(problems, groups, strict=True)
    ]


def figures_of(answered: Sequence[Answered], k: int) -> list[Figures]:
    """Of each task and level, and last of all together: pass@1 and pass@k with intervals over the problems."""
    groups: dict[tuple[str, int | None], list[Answered]] = {}
    for one in answered:
        groups.setdefault((one.problem.task.name, one.problem.level), []).append(one)
    return [_figures(*key, group, k) for key, group in {**groups, ("all", None): list(answered)}.items()]


def _figures(task: str, level: int | None, answered: Sequence[Answered], k: int) -> Figures:
    samples, right = len(answered[0].completions), np.array([one.right for one in answered])
    found: Figures = {"task": task, "level": level, "problems": len(answered)}
    for name, drawn in (("pass_at_1", 1), ("pass_at_k", k)):
        share = float(pass_at(drawn, samples, right).mean())
        found |= {name: share, f"{name}_interval": list(wilson(share, len(answered)))}
    for component in ("format", "length"):
        found[component] = float(np.mean([earned[component] for one in answered for earned in one.rewards]))
    return found


def mean_of(runs: Sequence[Sequence[Figures]]) -> list[Figures]:
    """The mean over runs of each row of figures, with intervals over the runs."""
    rows = []
    for same in zip(*runs, strict=True):
        row = dict(same[0])
        for name in ("pass_at_1", "pass_at_k"):
            values = [figures[name] for figures in same]
            row |= {name: float(np.mean(values)), f"{name}_interval": list(student(values))}
        row |= {name: float(np.mean([figures[name] for figures in same])) for name in ("format", "length")}
        rows.append(row)
    return rows


def table(rows: Sequence[Figures], k: int) -> str:
    """Figures for a person."""

    def share(row: Figures, name: str) -> str:
        low, high = row[f"{name}_interval"]
        return f"{row[name]:.1%} ({low:.1%}-{high:.1%})"

    return aligned(
        [
            ("task", "level", "problems", "pass@1", f"pass@{k}", "format", "length"),
            *(
                (
                    row["task"], str(row["level"] or ""), str(row["problems"]), share(row, "pass_at_1"),
                    share(row, "pass_at_k"), f"{row['format']:.1%}", f"{row['length']:.2f}",
                )
                for row in rows
            ),
        ]
    )  # fmt: skip


def evaluate(flags: EvaluateFlags) -> None:
    """Print the figures, and write them.

    Raises:
        UserError: for a mistake in the flags, before a framework is loaded.
    """
    if not flags.checkpoint:
        raise UserError("checkpoint: name one run folder or more")
    if flags.k > flags.samples:
        raise UserError(f"k {flags.k} is above samples {flags.samples}: draw more samples, or ask for a smaller k")
    groups = {
        name: [flags.saved_model(path, name) for path in paths]
        for name, paths in (("before", flags.before), ("checkpoint", flags.checkpoint))
    }
    models = [model for group in groups.values() for model in group]
    mixture = flags.at(flags.checkpoint[0]).problems(min(model.config.seq_len for model in models))
    problems, backend = held_out(mixture, flags.seed, flags.problems_per_level), load_backend(flags.backend)
    say(backend.describe(flags.step))
    answers: dict[str, list[list[Answered]]] = {}
    for name, paths in (("before", flags.before), ("checkpoint", flags.checkpoint)):
        for path, model in zip(paths, groups[name], strict=True):
            answered = answer(model, backend, problems, flags)
            answers.setdefault(name, []).append(answered)
            _report(path, model, answered, flags)
        if len(paths) > 1:
            rows = mean_of([figures_of(answered, flags.k) for answered in answers[name]])
            put(f"{name}: mean of {len(paths)} runs, interval over the runs\n{table(rows, flags.k)}\n")
    _show([(name, of_it[0]) for name, of_it in answers.items()], flags.show)


def _report(path: str, model: SavedModel, answered: Sequence[Answered], flags: EvaluateFlags) -> None:
    rows = figures_of(answered, flags.k)
    put(f"{model.name}\n{table(rows, flags.k)}\n")
    record = {
        "checkpoint": model.name,
        "split": "test",
        "samples": flags.samples,
        "k": flags.k,
        "seed": flags.seed,
        "temperature": flags.sampling.temperature,
        "figures": rows,
        "shown": [
            {
                "prompt": one.problem.prompt,
                "solution": one.problem.solution,
                "completion": one.completions[0],
                **one.rewards[0],
            }
            for one in _spread(answered, flags.show)
        ],
    }
    target = Path(path) / RESULT
    try:
        write_whole(target, (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None
    say(f"written: {target}")


def _show(groups: Sequence[tuple[str, Sequence[Answered]]], count: int) -> None:
    """The first completion of some problems, before and after where there are two models."""
    rows = [["problem", *(name for name, _ in groups)]]
    rows += [
        [same[0].problem.prompt, *map(_verdict, same)]
        for same in zip(*(_spread(answered, count) for _, answered in groups), strict=True)
    ]
    if count:
        put(aligned(rows))


def _verdict(one: Answered) -> str:
    text = one.completions[0]
    said = "right" if one.rewards[0]["correct"] else "wrong" if text.endswith(END) else "not ended"
    return f"{text.removesuffix(END)} ({said})"


def _spread(answered: Sequence[Answered], count: int) -> list[Answered]:
    """Some of the problems, from the first to the last, so that all levels are seen."""
    places = np.linspace(0, len(answered) - 1, min(count, len(answered)), dtype=int)
    return [answered[place] for place in places]


def main(argv: Sequence[str]) -> int:
    """The program; returns its exit code."""
    return run_program(EvaluateFlags, COMMAND, evaluate, argv)
