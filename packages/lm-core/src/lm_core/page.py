"""A self-contained HTML page: its style sheet, its tables, and its figures as inline pictures. It loads nothing.

    draw(axes) --picture--> SVG in a data URI --figure--> HTML --page--> a file that reads well on a phone

The same input gives the same bytes.
"""

import base64
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lm_core.terminal import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ["#1d4ed8", "#d9480f", "#15803d", "#9333ea", "#0ea5b7", "#111827"]
"""One for each bucket; where there are more buckets, they are drawn pale under their median."""
GREY = "#8a8f98"
SMALL, WIDE = (4.8, 2.7), (9.6, 3.3)
"""Inches, about what the page gives a figure, so that text keeps its size; a phone shows the small ones alone."""
STYLE = {
    "agg.path.chunksize": 10_000,  # a long noisy line would exceed the rasterizer's cells
    "axes.edgecolor": GREY,
    "axes.formatter.limits": (-2, 7),  # a learning rate is read best in powers of ten
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": "#e8eaee",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "lm_core.report",  # ids are random without it
    "text.parse_math": False,  # a bucket may be called anything
}
CSS = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #626b78; --page: #f5f6f8; --card: #fff; --line: #dfe3e8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ec; --soft: #9aa4b2; --page: #14171c; --card: #1d2128; --line: #323843 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1100px; padding: 16px; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 12px; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 24px 0 8px }
main { display: grid; gap: 12px; grid: auto-flow dense / repeat(2, minmax(0, 1fr)) }
main > *, pre { margin: 0; padding: 10px 12px; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px }
td { padding: 4px 16px 4px 0; white-space: nowrap; font-variant-numeric: tabular-nums }
td:first-child, small { color: var(--soft) }
main > figure { background: #fff; color: #1c2430; --soft: #626b78 }
.about td { white-space: normal; overflow-wrap: anywhere; vertical-align: top }
.about td:first-child { white-space: nowrap; overflow-wrap: normal }
.wide { grid-column: 1 / -1 }
figcaption { font-weight: 600; margin-bottom: 4px }
small { font-weight: normal; margin-left: 6px }
.legend { display: flex; flex-wrap: wrap; gap: 0 14px; font-size: 13px }
.legend i { display: inline-block; width: 16px; height: 3px; margin-right: 5px; vertical-align: middle }
img { display: block; width: 100%; height: auto }
pre { max-height: 32rem; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13px/1.45 ui-monospace, monospace }
@media (max-width: 700px) {
  body { padding: 10px } td { padding-right: 8px; font-size: 13px } main { grid-template-columns: minmax(0, 1fr) } }
"""


def page(title: str, *parts: str, style: str = "") -> bytes:
    """The file of a page: parts of HTML under a style sheet. `title` is text, which is escaped."""
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">'
    first = ["<!doctype html>", '<html lang="en">', head, f"<title>{escape(title)}</title>"]
    whole = [*first, f"<style>{CSS}{style}</style>", f"<h1>{escape(title)}</h1>", *parts, "</html>\n"]
    return visible("\n".join(whole)).encode()  # a name may have bytes that are no UTF-8


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells of text."""
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


_is_drawn = True


def leave_pictures_out() -> None:
    """Draw no picture in this process from now on, which takes longer than a short run: many runs have one page."""
    global _is_drawn
    _is_drawn = False


def picture(draw: Callable[["Axes"], None], size: tuple[float, float]) -> str:
    """One figure of `size` inches as an SVG in a data URI."""
    if not _is_drawn:
        return "data:,"
    # Imported here because it takes a second. A bare Figure needs no display and leaves no global state.
    from matplotlib import style
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with style.context(["default", STYLE]):
        drawing = Figure(figsize=size, layout="constrained")
        axes = drawing.subplots()
        draw(axes)
        for line in axes.lines:
            if np.size(line.get_xdata()) == 1:  # a line of one point is invisible
                line.set_marker("o")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0)
        # Without metadata: it would hold the date.
        drawing.savefig(buffer, format="svg", dpi=120, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def figure(
    words: tuple[str, str, str],
    draw: Callable[["Axes"], None],
    wide: bool = False,
    size: tuple[float, float] = SMALL,
    wide_size: tuple[float, float] = WIDE,
    legend: Sequence[tuple[str, str]] = (),
) -> str:
    """HTML of one figure, of two sizes where it is wide.

    Args:
        words: its title, a remark beside that, and what it shows to who cannot see it; text, which is escaped.
        draw: what draws it.
        wide: whether it spans the page.
        size: inches where it stands in a column, as on a phone.
        wide_size: inches where it spans a wide page.
        legend: names, and the colors of their lines, where there are too many for the picture.
    """
    title, note, alt = map(escape, words)
    lines = "".join(f'<span><i style="background: {color}"></i>{escape(name)}</span>' for name, color in legend)
    caption = f"<figcaption>{title} <small>{note}</small></figcaption>"
    caption += f'<div class="legend">{lines}</div>' * bool(lines)
    image = f'<img src="{picture(draw, size)}" alt="{alt}">'
    if not wide:
        return f"<figure>{caption}{image}</figure>"
    source = f'<source media="(min-width: 701px)" srcset="{picture(draw, wide_size)}">'
    return f'<figure class="wide">{caption}<picture>{source}{image}</picture></figure>'


def pixels(shades: NDArray[np.floating]) -> str:
    """Rows and columns of shades from 0 to 1, [rows, columns], as a PNG in a data URI: a pixel each, white to blue."""
    dark = np.array([int(COLORS[0][i : i + 2], 16) for i in (1, 3, 5)])
    light = 255 - np.clip(shades, 0, 1)[..., None] * (255 - dark)
    rows = np.rint(light).astype(np.uint8).reshape(len(shades), -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)  # each row unfiltered
    header = struct.pack(">IIBBBBB", shades.shape[1], len(shades), 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()
