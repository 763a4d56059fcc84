"""Figures of the page: curves with bands over seeds, means with intervals, tuning, and K-beta's beta2 by layer."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lm_bench.study.analysis import Analysis, Cell, Compared, Question
from lm_bench.study.curves import BY_BUCKET, Band, Curve, RunCurves, band
from lm_bench.study.estimate import Estimate
from lm_bench.study.sensitivity import PointResult
from lm_core.page import COLORS, GREY, figure
from lm_core.terminal import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Mapping[Path, RunCurves]
_BLOCK = re.compile(r"blocks\.(\d+)\b")
_LONGEST_LABEL, _LEGEND = 32, 40
_ROW = 0.26
"""Inches of an interval."""
_FALLEN = 0.1
"""Share of the steps after which losses have fallen so far that what arms differ by can be seen."""


def curve_figures(question: Question, cells: Sequence[Cell], curves: Curves) -> list[str]:
    """Losses by step, a figure for each budget and backend, and the training losses where those are of validation."""
    figures = []
    for budget, backend in dict.fromkeys((cell.budget, cell.backend) for cell in cells):
        here = [cell for cell in cells if (cell.budget, cell.backend) == (budget, backend)]
        note = ", ".join([f"{budget:,} steps"] * bool(budget) + [backend] * bool(backend))
        logged = [curves[run.folder] for cell in here for run in cell.runs if run.folder in curves]
        wanted = ["losses"] * any(len(of.losses[0]) for of in logged)
        wanted += ["training"] * any(len(of.validation[0]) and len(of.training[0]) for of in logged)
        figures += [_curve_figure(question, here, curves, which, note) for which in wanted]
    return figures


def draw_curves(axes: "Axes", cells: Mapping[int, Cell], curves: Curves, which: str, labelled: bool = False) -> None:
    """Mean and range of each cell's complete runs, in the color of its arm's number; the others dotted."""
    ends = []
    for number, cell in cells.items():
        color = COLORS[number % len(COLORS)]
        for run in cell.runs:
            if run.metric is None and run.folder in curves:
                axes.plot(*getattr(curves[run.folder], which), ":", color=color, linewidth=0.8)
        if found := _band(cell, curves, which):
            axes.fill_between(found.steps, found.low, found.high, color=color, alpha=0.18, linewidth=0)
            axes.plot(found.steps, found.mean, color=color, label=show(cell.arm)[:_LONGEST_LABEL] * labelled)
            early = found.mean[np.searchsorted(found.steps, _FALLEN * found.steps[-1])]
            ends += [early, min(found.mean[-1], found.mean[0]), found.high.min(), found.low.min()]
    if ends and max(ends) > min(ends):  # what is not yet trained, or diverges, leaves the figure by its top
        room = 0.05 * (max(ends) - min(ends))
        axes.set_ylim(min(ends) - room, max(ends) + room)
    axes.set_ylabel("nats")
    over_steps(axes)


def over_steps(axes: "Axes") -> None:
    """The axis of steps."""
    from matplotlib.ticker import MaxNLocator  # here because it takes a second

    axes.margins(x=0.01)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def interval_figures(question: Question, analysis: Analysis) -> dict[str, str]:
    """Each seed, the mean and its t interval: "final" of the metric, "compared" of the differences."""
    of_cells = {_label(cell, analysis.cells): list(cell.by_seed.values()) for cell in analysis.cells if cell.by_seed}
    of_pairs = {
        f"{_label(one.cell, analysis.cells)}{'' if question.baseline else f' − {one.against.arm}'}": _differences(one)
        for one in analysis.compared
        if one.paired
    }
    less = f" less {question.baseline}" if question.baseline else ""
    better = "lower is better" if question.goal == "minimize" else "higher is better"
    words = "dots: seeds, bar: mean and 95% t interval"
    figures = {"final": _interval_figure((question.metric, f"{words}; {better}"), of_cells, zero=False)}
    if of_pairs:
        figures["compared"] = _interval_figure((f"Paired differences{less}", words), of_pairs, zero=True)
    return figures


def tuning_figures(question: Question, analysis: Analysis) -> list[str]:
    """The metric over each tuned number, a figure for each budget; of what else is tuned the best value is taken."""
    figures = []
    for budget in dict.fromkeys(one.budget for one in analysis.tuned):
        arms = [one for one in analysis.tuned if one.budget == budget]
        for key in dict.fromkeys(key for one in arms for point in one.points for key in point.point):
            lines = {one.arm: _line(question, one.points, key) for one in arms}
            if any(len(line) > 1 for line in lines.values()):
                figures.append(_tuning_figure(question, key, budget, lines))
    return figures


def _line(question: Question, points: Sequence[PointResult], key: str) -> dict[float, float]:
    best = min if question.goal == "minimize" else max
    line: dict[float, float] = {}
    for point in points:
        value = point.point.get(key)
        if isinstance(value, int | float) and len(point.metrics) == len(point.runs):
            mean = float(np.mean(point.metrics))
            line[value] = best(mean, line.get(value, mean))
    return dict(sorted(line.items()))


def _tuning_figure(question: Question, key: str, budget: int, lines: Mapping[str, Mapping[float, float]]) -> str:
    legend = _legend(question, lines)

    def draw(axes: "Axes") -> None:
        for (_, color), line in zip(legend, lines.values(), strict=True):
            axes.plot(list(line), list(line.values()), "o-", color=color, markersize=3)
        values = sorted({value for line in lines.values() for value in line})
        if 0 < 5 * values[0] < values[-1]:
            axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(show(key))

    alt = "; ".join(f"{arm}: " + ", ".join(f"{x:g} {y:.4f}" for x, y in line.items()) for arm, line in lines.items())
    return figure((f"{question.metric} by {key}", f"tuning, {budget:,} steps", show(alt)), draw, legend=legend)


def bucket_figures(question: Question, cells: Sequence[Cell], curves: Curves) -> list[str]:
    """beta2 and sunspike by layer, for each cell of which a run has logged them: means over tensors and seeds."""
    figures = []
    for cell in cells:
        for key in BY_BUCKET:
            logged = [curves[run.folder].buckets[key] for run in cell.complete if run.folder in curves]
            layers = _layers([buckets for buckets in logged if buckets])
            if layers:
                figures.append(_layer_figure(key, cell, layers))
    return figures


def _layers(logged: Sequence[Mapping[str, Curve]]) -> dict[str, Band]:
    """Buckets of several runs by the layer that their names begin with, blocks in order."""
    members: dict[str, list[Curve]] = {}
    for buckets in logged:
        for name, curve in buckets.items():
            block = _BLOCK.search(name)
            members.setdefault(block[0] if block else name or "all", []).append(curve)
    found = {layer: band(of) for layer, of in members.items()}
    return {layer: of for layer, of in found.items() if of}


def _layer_figure(key: str, cell: Cell, layers: Mapping[str, Band]) -> str:
    from matplotlib import colormaps, colors  # here because it takes a second

    shades = list(map(colors.to_hex, colormaps["viridis"](np.linspace(0, 0.9, len(layers)))))

    def draw(axes: "Axes") -> None:
        for shade, line in zip(shades, layers.values(), strict=True):
            axes.plot(line.steps, line.mean, color=shade, linewidth=1.0)
        over_steps(axes)

    legend = list(zip(map(show, layers), shades, strict=True))
    ends = {layer: float(line.mean[-1]) for layer, line in layers.items()}
    alt = f"{key} at the end: " + ", ".join(f"{layer} {value:.4f}" for layer, value in ends.items())
    return figure((f"{key} by layer", show(cell.words), show(alt)), draw, legend=legend[:_LEGEND])


def _label(cell: Cell, cells: Sequence[Cell]) -> str:
    """The arm, and where it is compared if there are several places."""
    places = [f"{cell.budget:,}"] * (len({other.budget for other in cells}) > 1)
    places += [cell.backend] * (len({other.backend for other in cells}) > 1)
    return ", ".join([cell.arm[:_LONGEST_LABEL], *places])


def _differences(one: Compared) -> list[float]:
    theirs = one.against.by_seed
    return [value - theirs[seed] for seed, value in one.cell.by_seed.items() if seed in theirs]


def _interval_figure(words: tuple[str, str], samples: Mapping[str, Sequence[float]], zero: bool) -> str:
    estimates = {label: Estimate.of(sample) for label, sample in samples.items()}

    def draw(axes: "Axes") -> None:
        for place, (label, sample) in enumerate(samples.items()):
            of = estimates[label]
            axes.plot(
                sample, [place] * len(sample), "o",
                markersize=3.5, markerfacecolor="white", markeredgecolor="black", markeredgewidth=0.7, zorder=3,
            )  # fmt: skip
            if of.interval:
                axes.plot(of.interval, [place, place], color=COLORS[0], linewidth=2)
            axes.plot([of.mean, of.mean], [place - 0.25, place + 0.25], color=COLORS[0], linewidth=2)
        axes.set_yticks(range(len(samples)), [show(label) for label in samples])
        axes.set_ylim(len(samples) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        if zero:
            axes.axvline(0, color=GREY, linewidth=1)

    alt = "; ".join(f"{label}: {estimate}" for label, estimate in estimates.items())
    height = 0.8 + _ROW * len(samples)
    return figure((*words, show(alt)), draw, wide=True, size=(4.8, height), wide_size=(9.6, height))


def _curve_figure(question: Question, cells: Sequence[Cell], curves: Curves, which: str, note: str) -> str:
    numbered = {question.arms.index(cell.arm): cell for cell in cells}
    ends = {cell.arm: found for cell in cells if (found := _band(cell, curves, which))}
    alt = "; ".join(f"{arm}: {b.mean[0]:.4f} to {b.mean[-1]:.4f} nats" for arm, b in ends.items())
    title = "Training loss" if which == "training" else "Loss"
    words = (title, ", ".join(filter(None, [note, "mean, and lowest to highest seed"])), show(alt))
    legend = _legend(question, [cell.arm for cell in cells])
    return figure(words, lambda axes: draw_curves(axes, numbered, curves, which), wide=True, legend=legend)


def _legend(question: Question, arms: Iterable[str]) -> list[tuple[str, str]]:
    return [(show(arm), COLORS[question.arms.index(arm) % len(COLORS)]) for arm in arms]


def _band(cell: Cell, curves: Curves, which: str) -> Band | None:
    return band(getattr(curves[run.folder], which) for run in cell.complete if run.folder in curves)
