"""The report of a run: one self-contained HTML page, with its curves as inline SVG pictures.

    metrics.jsonl --read_run--> History --_series--> numbers --figure--> SVG ----+
    newest checkpoint --> step, About -----------------------------------------+--> report.html
    samples.txt, config.toml --------------------------------------------------+

A report is shown to others: a link that leads out of the folder is named, and its content is not included.

The page loads nothing, and the same folder gives the same bytes. Of two records of one kind and step the later one
counts. A line that is not a record is skipped: a run that was killed leaves a torn one. `seconds` is the training
time so far, before and after a resume.

Limits: what is pale is pixels inside the SVG, so that a picture does not grow with the run; of a long text the end is
shown.
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_core.disk.files import write_whole
from lm_core.disk.untrusted import open_inside
from lm_core.errors import UserError
from lm_core.page import COLORS, GREY, figure, html_table, page
from lm_core.run.about import About
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.log import RESUME, read_records
from lm_core.terminal import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = dict[str, Any]
Array = NDArray[np.float64]
KINDS = ("train", "eval")
_KNOWN = frozenset(
    {"kind", "step", "loss_nats", "lr", "grad_norm", "tokens_per_second", "seconds", "mfu", "beta2", "sunspike"}
    | {"weight_norm", "activation_rms"}
)
"""Fields that are not a curve, or have a figure of their own."""
_MOST_OTHERS = 24
LONGEST_TEXT = 1 << 20
"""Bytes of a file that the page quotes at most."""


@dataclass(frozen=True)
class History:
    """Records of metrics.jsonl, by step; `unit` is the key of the loss in bits: "bits_per_byte" where there is one."""

    train: list[Record]
    evals: list[Record]
    unit: str
    resumes: list[Record] = field(default_factory=list)
    """Changes by resumes; the last one of each step."""


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html from the run's metrics.jsonl, samples.txt and config.toml, and return its path.

    Raises:
        UserError: when metrics.jsonl is missing or holds no training or validation record.
    """
    run, metadata = read_run(folder / "metrics.jsonl"), Checkpoints(folder / "checkpoints").newest_metadata()
    quoted = [_quoted("Sample", folder / "samples.txt"), _quoted("Config", folder / "config.toml")]
    main = ["<main>", _summary(run, metadata), *_about(metadata), *_figures(run), "</main>"]
    path = folder / "report.html"
    write_whole(path, page(show(folder.resolve().name), *main, *_changes(run), *quoted))
    return path


def read_run(path: Path) -> History:
    """Read a metrics file.

    Raises:
        UserError: when it is missing or holds no training or validation record.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a run folder that has training records")
    latest = {(record["kind"], record["step"]): record for record in _records(path)}
    ordered = sorted(latest.values(), key=lambda record: record["step"])
    train, evals, resumes = ([r for r in ordered if r["kind"] == kind] for kind in (*KINDS, RESUME))
    if not train and not evals:
        raise UserError(f"{path}: no training or validation record in it; let the run reach its first log line")
    units = dict.fromkeys(key for record in train + evals for key in record if key.startswith("bits_per_"))
    # Per byte first: it alone does not depend on the tokenizer.
    return History(train, evals, min(units, key=lambda unit: unit != "bits_per_byte", default="bits"), resumes)


def _records(path: Path) -> Iterator[Record]:
    try:
        records = read_records(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    for record in records:
        if record.get("kind") in (*KINDS, RESUME) and _is_number(record["step"]):
            yield record


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max  # not NaN, nor beyond any float


def _series(records: list[Record], key: str) -> tuple[Array, dict[str, Array]]:
    """Steps and, by bucket, values, NaN where a record lacks a bucket. A plain number is the bucket called ""."""
    found = []
    for record in records:
        value = record.get(key)
        row = {name: x for name, x in (value if isinstance(value, dict) else {"": value}).items() if _is_number(x)}
        if row:
            found.append((record["step"], row))
    names = dict.fromkeys(name for _, row in found for name in row)
    rows = {name: np.array([row.get(name, np.nan) for _, row in found], dtype=np.float64) for name in names}
    return np.array([step for step, _ in found], dtype=np.float64), rows


def _window(count: int) -> int:
    """Records in the moving mean: an odd number, about 2 % of them."""
    return 2 * (count // 100) + 1


def _smooth(steps: Array, values: Array) -> tuple[Array, Array]:
    """Centred moving mean of what is not NaN, at no more steps than a figure has room for.

    The window opens with the run, since a loss falls steeply at first.
    """
    place = np.arange(0, len(values), max(1, len(values) // 600))
    before = np.minimum(place, _window(len(values)) // 2)
    after = np.minimum(before, len(values) - 1 - place)
    there = np.isfinite(values)
    sums, counts = (np.append(0.0, np.cumsum(x)) for x in (np.where(there, values, 0.0), there))
    sums, counts = (x[place + after + 1] - x[place - before] for x in (sums, counts))
    return steps[place], np.divide(sums, counts, out=np.full(len(place), np.nan), where=counts > 0)


def _summary(run: History, metadata: Record) -> str:
    """The steps are those that the newest checkpoint has: records are written now and then only."""
    train, evals = ([r for r in rs if _is_number(r.get("loss_nats"))] for rs in (run.train, run.evals))
    both = sorted(run.train + run.evals, key=lambda record: record["step"])
    saved = metadata.get("step")
    rows = [["Steps", f"{max([both[-1]['step'], *[saved] * _is_number(saved)]):,}"]]
    rows += [["Training time", _duration(clock[-1])] for clock in _series(both, "seconds")[1].values()]
    speeds = _series(run.train, "tokens_per_second")[1].values()
    rows += [["Median tokens/s", f"{np.median(speed):,.0f}"] for speed in speeds]
    use = _series(run.train, "mfu")[1].values()
    rows += [["Median model FLOPs utilization", f"{np.median(part):.1%}"] for part in use]
    rows += [["Loss", "nats", run.unit.replace("_", " "), "step"]]
    best = sorted(evals, key=lambda record: record["loss_nats"])
    picked = {"first": evals[:1], "best": best[:1], "last": evals[-1:]}
    rows += [[f"validation, {name}", *_loss_cells(r, run.unit)] for name, records in picked.items() for r in records]
    rows += [["training, last", *_loss_cells(r, run.unit)] for r in train[-1:]]
    rows += [["Perplexity, best", f"{r['perplexity']:,.2f}"] for r in best[:1] if _is_number(r.get("perplexity"))]
    return f"<div>{html_table(rows)}</div>"


def _about(metadata: Record) -> list[str]:
    """Data, model and machine of the run."""
    about = About.of(metadata)
    return [f'<div class="about">{html_table(about.rows())}</div>'] if about else []


def _changes(run: History) -> list[str]:
    """Changes of the run by resumes, by step."""
    rows = [
        [f"from step {record['step'] + 1:,}", str(key), f"{pair[0]} → {pair[1]}"]
        for record in run.resumes
        if isinstance(record.get("changed"), dict)
        for key, pair in record["changed"].items()
        if isinstance(pair, list) and len(pair) == 2
    ]
    return ["<h2>Changed by resumes</h2>", f"<main><div>{html_table(rows)}</div></main>"] if rows else []


def _loss_cells(record: Record, unit: str) -> list[str]:
    bits = f"{record[unit]:.4f}" if _is_number(record.get(unit)) else ""
    return [f"{record['loss_nats']:.4f}", bits, f"{record['step']:,}"]


def _duration(seconds: float) -> str:
    """h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _figures(run: History) -> list[str]:
    """The figures that the records have numbers for, the loss first."""
    return [
        _loss_figure(run),
        _figure_of(run, "tokens_per_second", "Tokens per second", _from_zero),
        _figure_of(run, "lr", "Learning rate", _from_zero),
        _figure_of(run, "grad_norm", "Gradient norm", _wide_ranging),
        _figure_of(run, "beta2", "beta2"),
        _figure_of(run, "sunspike", "Sunspike"),
        _figure_of(run, "mfu", "Model FLOPs utilization", _from_zero),
        _figure_of(run, "weight_norm", "Weight norm", _wide_ranging),
        _figure_of(run, "activation_rms", "Activation RMS", _wide_ranging),
        *(_figure_of(run, key, key.replace("_", " ").capitalize()) for key in _others(run)),
    ]


def _others(run: History) -> list[str]:
    """Further numbers of the training records, such as those of rollouts."""
    keys = dict.fromkeys(key for record in run.train for key in record)
    return [key for key in keys if key not in _KNOWN and not key.startswith("bits_per_")][:_MOST_OTHERS]


def _loss_figure(run: History) -> str:
    lines: dict[str, tuple[Array, Array]] = {}
    for name, records in ("training", run.train), ("validation", run.evals):
        steps, rows = _series(records, "loss_nats")
        if rows:
            lines[name] = steps, rows[""]
    if not lines:
        return ""

    def draw(axes: "Axes") -> None:
        if "training" in lines:
            _plot_noisy(axes, *lines["training"], "training")
        if "validation" in lines:
            axes.plot(*lines["validation"], "o-", color=COLORS[1], markersize=3, linewidth=1.2, label="validation")
        axes.set_ylabel("nats")
        _bits_axis(axes, run)

    alt = "; ".join(_in_words(f"{name} loss in nats", *line) for name, line in lines.items())
    return _figure(run, ("Loss", _note(len(run.train)), alt), draw, wide=True)


def _bits_axis(axes: "Axes", run: History) -> None:
    """A right axis in bits. Per byte, its scale depends on the text, here the last one: validation, if any."""
    both = [r for r in run.train + run.evals if all(_is_number(r.get(k)) and r[k] > 0 for k in ("loss_nats", run.unit))]
    if both:
        ratio = both[-1][run.unit] / both[-1]["loss_nats"]
        right = axes.secondary_yaxis("right", functions=(lambda nats: nats * ratio, lambda bits: bits / ratio))
        right.set_ylabel(run.unit.replace("_", " "))


def _figure_of(run: History, key: str, title: str, scale: Callable[["Axes"], None] | None = None) -> str:
    """A figure of one number, or of one for each bucket."""
    steps, rows = _series(run.train, key)
    if not rows:
        return ""
    table = np.array(list(rows.values()))

    def draw(axes: "Axes") -> None:
        if len(rows) > len(COLORS):
            _plot_crowd(axes, steps, table)
        elif len(rows) > 1:
            for color, (name, values) in zip(COLORS, rows.items(), strict=False):
                axes.plot(*_smooth(steps, values), color=color, label=name)
        elif key == "lr":  # a schedule has no noise, and a mean would round its corners
            axes.plot(steps, table[0], color=COLORS[0])
        else:
            _plot_noisy(axes, steps, table[0])
        if scale:
            scale(axes)

    note = [f"{len(rows)} buckets"] * (len(rows) > 1) + [_note(len(steps))] * (key != "lr")
    alt = _in_words(f"{title} (median)" if len(rows) > 1 else title, steps, np.nanmedian(table, axis=0))
    return _figure(run, (title, ", ".join(filter(None, note)), alt), draw)


def _note(records: int) -> str:
    return f"line: mean of {_window(records)} records" if _window(records) > 1 else ""


def _in_words(name: str, steps: Array, values: Array) -> str:
    return f"{name} from {values[0]:.4g} at step {steps[0]:,.0f} to {values[-1]:.4g} at step {steps[-1]:,.0f}"


def _plot_noisy(axes: "Axes", steps: Array, values: Array, label: str = "") -> None:
    """The raw values, pale, behind their moving mean."""
    axes.plot(steps, values, color=COLORS[0], alpha=0.3, linewidth=0.7, rasterized=True)
    axes.plot(*_smooth(steps, values), color=COLORS[0], label=label)


def _plot_crowd(axes: "Axes", steps: Array, table: Array) -> None:
    """Every row of the table, pale, behind their 10-90 % band and median."""
    for row in table:
        axes.plot(*_smooth(steps, row), color=GREY, alpha=0.3, linewidth=0.4, rasterized=True)
    (places, low), (_, middle), (_, high) = (_smooth(steps, x) for x in np.nanpercentile(table, (10, 50, 90), axis=0))
    axes.fill_between(places, low, high, color=COLORS[0], alpha=0.2, linewidth=0, label="10-90 %")
    axes.plot(places, middle, color=COLORS[0], label="median")


def _from_zero(axes: "Axes") -> None:
    axes.set_ylim(bottom=0)


def _wide_ranging(axes: "Axes") -> None:
    """A logarithmic axis, if the values range far enough to have two of its labels 1, 2, 5, 10 among them."""
    low, high = axes.dataLim.intervaly
    if not 0 < 5 * low < high:
        _from_zero(axes)
        return
    axes.set_yscale("log", subs=(2, 5))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")


def _figure(run: History, words: tuple[str, str, str], draw: Callable[["Axes"], None], wide: bool = False) -> str:
    """HTML of one figure over the steps, see `lm_core.page.figure`."""

    def draw_steps(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator  # here because it takes a second

        draw(axes)
        axes.margins(x=0.01)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")

    return figure(words, draw_steps, wide)


def _quoted(title: str, path: Path) -> str:
    """A file's text under a heading, of a long one the end; nothing for a file that is not there."""
    note = ""
    try:
        with open_inside(path, path.parent) as file:
            over = os.fstat(file.fileno()).st_size - LONGEST_TEXT
            file.seek(max(0, over))
            text = file.read(LONGEST_TEXT).decode("utf-8", errors="replace")
        if over > 0:
            note = f" <small>the last {LONGEST_TEXT >> 10:,} KiB of {path.name}</small>"
    except FileNotFoundError:
        return ""
    except OSError as error:
        text = f"not shown: {path.name}: {error.strerror or error}"
    # HTML drops the first line break in a <pre>, so one is added.
    return f"<h2>{title}{note}</h2>\n<pre>\n{escape(text)}</pre>"
