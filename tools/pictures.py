"""Make the pictures of README.md, as SVG in docs/pictures.

    python tools/pictures.py              the flow of the data, and the report of a run of the quick start's command
    python tools/pictures.py RUN          the same with the report of a run that is there already
    python tools/pictures.py --flow       the flow alone

    RUN/report.html --summary and figures, as they are on the page--> docs/pictures/report.svg

No browser is needed: the figures of the page are SVG, and are placed here as its style sheet places them.
"""

import argparse
import base64
import re
import shlex
import subprocess
import sys
import tempfile
from html import escape, unescape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
FONT = 'font-family="system-ui, sans-serif"'
WIDTH, MARGIN, GAP = 980, 20, 12
FIGURES = 5
"""How many of the page's figures the picture has: the wide one, and two rows."""
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'

BOXES = {
    "text": (20, 90, "text", "lm_pipeline.text"),
    "tokens": (180, 90, "token ids", "lm_tokenizer"),
    "batches": (356, 90, "batches", "lm_core.data"),
    "model": (530, 90, "model", "layers, attention"),
    "loss": (680, 90, "loss, gradients", "step, clip"),
    "optimizer": (830, 90, "optimizer", "optim"),
    "schedule": (830, 210, "learning rate", "lm_core.schedules"),
    "log": (680, 210, "log", "metrics.jsonl"),
    "checkpoint": (530, 210, "checkpoint", "safetensors"),
    "report": (680, 310, "report", "report.html"),
    "sampling": (356, 310, "sampling", "lm_core.sampling"),
    "written": (180, 310, "new text", "samples.txt"),
}
"""Left and top, name, and where it is to be found."""
BOX = (130, 52)
ARROWS = [
    ("text", "tokens"), ("tokens", "batches"), ("batches", "model"), ("model", "loss"), ("loss", "optimizer"),
    ("schedule", "optimizer"), ("model", "checkpoint"), ("loss", "log"), ("log", "report"),
    ("checkpoint", "sampling"), ("sampling", "written"),
]  # fmt: skip


def flow() -> str:
    """The flow of the data, from text to new text."""
    parts = [f'{HEAD} viewBox="0 0 {WIDTH} 400" {FONT}>', f'<rect width="{WIDTH}" height="400" fill="#fff"/>']
    parts.append(
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L10 5L0 10z" fill="#626b78"/></marker></defs>'
    )
    parts.append(_frame(342, 20, 628, 262, "one run: lm_core.run.session, and its loop", "#f5f6f8"))
    parts.append(_frame(518, 54, 442, 102, "one training step: lm_torch or lm_mlx, the same files in both", "#e7edfb"))
    parts += [_arrow(start, end) for start, end in ARROWS]
    parts += [_box(*box) for box in BOXES.values()]
    return "\n".join([*parts, "</svg>\n"])


def _frame(x: int, y: int, width: int, height: int, title: str, fill: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="{fill}" stroke="#c9cfd8"/>'
        f'<text x="{x + 12}" y="{y + 22}" font-size="14" fill="#1c2430">{escape(title)}</text>'
    )


def _box(x: int, y: int, name: str, where: str) -> str:
    width, height = BOX
    middle = x + width // 2
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="#fff" stroke="#1d4ed8"/>'
        f'<text x="{middle}" y="{y + 23}" font-size="15" text-anchor="middle" fill="#1c2430">{escape(name)}</text>'
        f'<text x="{middle}" y="{y + 41}" font-size="11.5" text-anchor="middle" fill="#626b78">{escape(where)}</text>'
    )


def _arrow(start: str, end: str) -> str:
    (x0, y0, *_), (x1, y1, *_) = BOXES[start], BOXES[end]
    width, height = BOX
    if y0 == y1:
        right = x1 > x0
        ends = (x0 + width * right, y0 + height // 2, x1 + width * (not right), y1 + height // 2)
    elif x0 == x1:
        down = y1 > y0
        ends = (x0 + width // 2, y0 + height * down, x1 + width // 2, y1 + height * (not down))
    else:
        ends = (x0 + width // 2, y0 + height, x1 + width, y1 + height // 2)
    return '<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="#626b78" marker-end="url(#tip)"/>'.format(*ends)


def report(page: str) -> str:
    """The top of a report page, with its summary and first figures, as a picture."""
    title = unescape(re.findall(r"<h1>(.*?)</h1>", page)[0])
    parts = [f'<text x="{MARGIN}" y="40" font-size="24" font-weight="600" fill="#1c2430">Run {escape(title)}</text>']
    main = page.split("<main>")[1].split("</main>")[0]
    half = (WIDTH - 2 * MARGIN - GAP) / 2
    columns = [MARGIN, MARGIN + half + GAP]
    tables = [_rows(table) for table in re.findall(r"<table>(.*?)</table>", main)]
    rows = max(map(len, tables))
    bottoms = [56 + 22.0 * rows + 20] * 2
    for x, table in zip(columns, tables, strict=False):
        parts += [_card(x, 56, half, bottoms[0] - 56), *_texts(x + 12, 80, table)]
    for wide, figure in re.findall(r"<figure( class=\"wide\")?>(.*?)</figure>", main, re.DOTALL)[:FIGURES]:
        caption = unescape(re.sub(r"<.*?>", "", figure.split("</figcaption>")[0])).strip()
        svg = base64.b64decode(re.findall(r"base64,([^\"]*)\"", figure)[0]).decode()  # of two, that of wide screens
        column = bottoms.index(min(bottoms))
        x, width = (MARGIN, WIDTH - 2 * MARGIN) if wide else (columns[column], half)
        top = (max(bottoms) if wide else bottoms[column]) + GAP
        inner, height = _placed(svg, x + 12, top + 34, width - 24)
        parts += [_card(x, top, width, height + 46)]
        parts += [f'<text x="{x + 12}" y="{top + 24}" font-size="15" font-weight="600">{escape(caption)}</text>', inner]
        bottoms = [top + height + 46] * 2 if wide else [*bottoms[:column], top + height + 46, *bottoms[column + 1 :]]
    full = round(max(bottoms) + MARGIN)
    head = f'{HEAD} viewBox="0 0 {WIDTH} {full}" {FONT}><rect width="{WIDTH}" height="{full}" fill="#f5f6f8"/>'
    return "\n".join([head, *parts, "</svg>\n"])


def _rows(table: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", table)
    return [[unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in rows]


def _texts(x: float, y: float, rows: list[list[str]]) -> list[str]:
    places = [x, x + 140, x + 220, x + 330]
    return [
        f'<text x="{places[column]:.0f}" y="{y + 22 * number:.0f}" font-size="13"'
        f' fill="{"#1c2430" if column else "#626b78"}">{escape(_short(cell, 36))}</text>'
        for number, row in enumerate(rows)
        for column, cell in enumerate(row)
    ]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _card(x: float, y: float, width: float, height: float) -> str:
    place = f'x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return f'<rect {place} rx="8" fill="#fff" stroke="#dfe3e8"/>'


def _placed(svg: str, x: float, y: float, width: float) -> tuple[str, float]:
    """A whole SVG as a part of another, and its height there."""
    _, _, columns, rows = map(float, re.findall(r'viewBox="(.*?)"', svg)[0].split())
    height = width * rows / columns
    body = re.sub(r"\s*\n\s*", " ", svg.split("<svg", 1)[1].split(">", 1)[1])
    body = re.sub(r"<!--.*?-->", "", body).replace("> <", "><")
    place = f'x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {columns:g} {rows:g}"'
    return f"<svg {place}>{body}", height


def quick_start() -> list[str]:
    """The words of README.md's first command, from the app on."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return shlex.split(re.findall(r"uv run (apps/testbed_d .*)", readme.split("## Quick start")[1])[0])


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description="Make the pictures of README.md.")
    parser.add_argument("run", nargs="?", type=Path, help="run folder; without one, the quick start's command is run")
    parser.add_argument("--flow", action="store_true", help="make the picture of the flow alone")
    args = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / "flow.svg").write_text(flow(), encoding="utf-8")
    if args.flow:
        return
    with tempfile.TemporaryDirectory() as scratch:
        run = args.run or Path(scratch) / "quick_start"
        if not args.run:
            subprocess.run([sys.executable, *quick_start(), "--save_dir", str(run)], cwd=ROOT, check=False)
        if not (run / "report.html").is_file():
            parser.error(f"{run} has no report.html: give the folder of a run that has ended")
        page = (run / "report.html").read_text(encoding="utf-8")
    (PICTURES / "report.svg").write_text(report(page), encoding="utf-8")


if __name__ == "__main__":
    main()
