"""The comparison as a table, and as one file that holds its pictures: HTML that loads nothing, or PNG."""

import base64
import io
import itertools
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_bench.compare.groups import Group, thinned
from lm_core.disk.files import write_whole
from lm_core.errors import UserError
from lm_core.page import COLORS, STYLE, html_table, page
from lm_core.terminal import aligned, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".html", ".png")
_HEADER = ("group", "runs", "last loss", "best loss", "step", "tokens/s", "time")
_INCHES = (9.6, 3.4)


def compare_table(groups: Sequence[Group]) -> str:
    """A line for each group, then one for each run: losses in nats, mean ± sample standard deviation."""
    return "\n\n".join(aligned(rows) for rows in (_group_rows(groups), _run_rows(groups)))


def compare_json(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The same with every digit."""
    return [
        {
            "group": group.label,
            "last_loss_nats": vars(group.last),
            "best_loss_nats": vars(group.best),
            "runs": [
                {
                    "folder": str(run.folder), "step": run.losses[-1][0], "last_loss_nats": run.last,
                    "best_loss_nats": run.best, **run.bits, "seconds": run.seconds,
                    "tokens_per_second": run.tokens_per_second,
                }
                for run in group.runs
            ],
        }
        for group in groups
    ]  # fmt: skip


def write_comparison(path: Path, groups: Sequence[Group]) -> None:
    """Write the pictures, and in HTML the tables.

    Raises:
        UserError: for a name that ends in neither .html nor .png, or a file that cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"--out {path}: its name ends in {' or '.join(SUFFIXES)}")
    data = _picture(groups, "png") if path.suffix == ".png" else _page(groups)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    except OSError as error:
        raise UserError(f"--out: cannot write {path}: {error.strerror}") from None


def _group_rows(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [_HEADER]
    for group in groups:
        steps = sorted({run.losses[-1][0] for run in group.runs})
        speeds = [run.tokens_per_second for run in group.runs if run.tokens_per_second is not None]
        seconds = [run.seconds for run in group.runs if run.seconds is not None]
        rows.append(
            (
                show(group.label), str(len(group.runs)), str(group.last), str(group.best),
                f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,}-{steps[-1]:,}",
                f"{sum(speeds) / len(speeds):,.0f}" if speeds else "",
                f"{sum(seconds) / len(seconds):,.0f} s" if seconds else "",
            )
        )  # fmt: skip
    return rows


def _run_rows(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    units = list(dict.fromkeys(unit for group in groups for run in group.runs for unit in run.bits))
    rows: list[tuple[str, ...]] = [("run", "group", "seed", "last loss", "best loss", *units)]
    for group in groups:
        for run in group.runs:
            bits = [f"{run.bits[unit]:.4f}" if unit in run.bits else "" for unit in units]
            seed = str(run.config.get("seed", ""))
            rows.append((show(run.folder), show(group.label), seed, f"{run.last:.4f}", f"{run.best:.4f}", *bits))
    return rows


def _page(groups: Sequence[Group]) -> bytes:
    picture = base64.b64encode(_picture(groups, "svg")).decode()
    alt = escape(show("; ".join(f"{group.label}: loss {group.last} nats at the end" for group in groups)))
    drawn = f'<figure class="wide"><img src="data:image/svg+xml;base64,{picture}" alt="{alt}"></figure>'
    tables = (
        f'<div class="wide" style="overflow-x: auto">{html_table(rows)}</div>'
        for rows in (_group_rows(groups), _run_rows(groups))
    )
    return page("Comparison", "<main>", drawn, *tables, "</main>")


def _picture(groups: Sequence[Group], form: str) -> bytes:
    # Imported here because it takes a second. A bare Figure needs no display and leaves no global state.
    from matplotlib import style
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with style.context(["default", STYLE]):
        with_training = any(run.validation and run.training for group in groups for run in group.runs)
        figure = Figure(figsize=(_INCHES[0], _INCHES[1] * (1 + with_training)), layout="constrained")
        panels = figure.subplots(1 + with_training, 1, squeeze=False)[:, 0]
        _draw_groups(panels[0], groups)
        if with_training:
            _draw_training(panels[1], groups)
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type")) if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _draw_groups(axes: "Axes", groups: Sequence[Group]) -> None:
    """The mean of each group over its range, and each of its runs, pale."""
    for color, group in zip(itertools.cycle(COLORS), groups, strict=False):
        for run in group.runs:
            axes.plot(*_xy(run.losses), color=color, alpha=0.35 if len(group.runs) > 1 else 1.0, linewidth=0.8)
        mean = group.mean_curve()
        steps = [step for step, _ in mean]
        if len(group.runs) > 1:
            low, high = [at.low for _, at in mean], [at.high for _, at in mean]
            axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(steps, [at.mean for _, at in mean], "o-", color=color, markersize=3, label=show(group.label)[:60])
    kinds = {"validation" if run.validation else "training" for group in groups for run in group.runs}
    _finish(axes, f"{' or '.join(sorted(kinds))} loss, nats")


def _draw_training(axes: "Axes", groups: Sequence[Group]) -> None:
    for color, group in zip(itertools.cycle(COLORS), groups, strict=False):
        for run in group.runs:
            axes.plot(*_xy(run.training), color=color, linewidth=0.8, alpha=0.7)
    _finish(axes, "training loss, nats")


def _xy(curve: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    points = thinned(curve)
    return [step for step, _ in points], [loss for _, loss in points]


def _finish(axes: "Axes", label: str) -> None:
    axes.set_ylabel(label)
    axes.set_xlabel("step")
    axes.margins(x=0.01)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper right")
