"""The page of a study: one self-contained HTML file.

Study --scores--> a grid of layers and heads for each    --head maps--> those that stand out, with their tokens
      --lens, distance--> curves                         --all maps--> a small one of every head
"""

import itertools
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_core.disk.files import write_whole
from lm_core.page import COLORS, figure, html_table, page, pixels
from lm_core.terminal import show
from lm_pipeline.inside.map import head_map, shades
from lm_pipeline.inside.study import Array, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

NUMBERED, LABELLED = 64, 24
"""Cells of a grid that have their number in them, and tokens of a map that have their label, at most."""
STYLE = """
.heads { display: grid; gap: 8px; grid-template-columns: repeat(auto-fill, minmax(76px, 1fr)) }
.heads figure { margin: 0 } .heads img { image-rendering: pixelated; border: 1px solid #dfe3e8 }
.heads figcaption { font-weight: normal; font-size: 12px; margin: 0 }
figure svg { display: block; width: 100%; height: auto; max-width: 640px }
main p { margin: 0 }
"""
SCORES = {
    "induction": ("Induction score", "attention to what followed the same token before"),
    "previous_token": ("Previous-token score", "attention to the token before"),
    "first_token": ("First-token score", "attention to the first token"),
    "ablation": ("Ablation cost", "nats per token lost without the head"),
    "entropy": ("Entropy", "nats"),
    "mean_distance": ("Mean distance", "tokens"),
}
"""Titles and remarks, in the order of the page."""


def write_page(path: Path, study: Study, name: str) -> None:
    """Write the page of a study of the model called `name`."""
    main = ["<main>", _summary(study), _most(study), *_grids(study), _lens_figure(study), _distance_figure(study)]
    main += [_repeat_figure(study), *_maps_that_stand_out(study), "</main>"]
    write_whole(path, page(show(name), *main, *_all_maps(study), style=STYLE))


def head_name(layer: int, head: int) -> str:
    """Both counted from 0, as in the names of the parameters."""
    return f"{layer}.{head}"


def _largest(scores: Array) -> tuple[int, int]:
    layer, head = np.unravel_index(np.argmax(scores), scores.shape)
    return int(layer), int(head)


def first_and_second(study: Study) -> tuple[float, float]:
    """Loss of the tokens of a repeated sequence where they first come, and where they come again, in nats.

    The first target of the second half, which nothing announces, and the last one of all are in neither.
    """
    losses = study.repeat_loss_nats
    half = len(losses) // 2
    return float(losses[: half - 1].mean()), float(losses[half:-1].mean())


def _summary(study: Study) -> str:
    layers, heads = study.entropy.shape
    first, second = first_and_second(study)
    rows = [["Layers, heads", f"{layers}, {heads}"], ["Tokens read", f"{study.tokens:,}"]]
    rows += [[f"Loss on the text{_lens_part(study)}", f"{study.lens_loss_nats[-1]:.4f} nats"]]
    rows += [
        ["Loss on random tokens, first time", f"{first:.4f} nats"],
        ["Loss on the same, second time", f"{second:.4f} nats"],
    ]
    return f"<div>{html_table(rows)}</div>"


def _lens_part(study: Study) -> str:
    """Name the part of the text that the logit lens and the loss are of; nothing where that is all of it."""
    return f", first {study.lens_tokens:,} tokens" if study.lens_tokens < study.tokens else ""


def _most(study: Study) -> str:
    rows = [["Head with the largest", "layer.head", ""]]
    for key in ("induction", "previous_token", "first_token", "ablation"):
        scores = getattr(study, key)
        if np.isfinite(scores).all():
            place = _largest(scores)
            rows.append([SCORES[key][0].lower(), head_name(*place), f"{scores[place]:z.3f}"])
    return f"<div>{html_table(rows)}</div>"


def _grids(study: Study) -> list[str]:
    shares = ("induction", "previous_token", "first_token")
    return [
        _grid(getattr(study, key), *SCORES[key], key in shares)
        for key in SCORES
        if np.isfinite(getattr(study, key)).all()
    ]


def _grid(scores: Array, title: str, note: str, is_share: bool) -> str:
    """Shares are drawn from 0 to 1, the others up to their largest."""
    place = _largest(scores)
    digits = 2 if np.abs(scores).max() >= 0.1 else 3  # the cost of a head is often a hundredth of a nat

    def draw(axes: "Axes") -> None:
        low, high = min(0.0, float(scores.min())), 1.0 if is_share else float(scores.max())
        cmap = "Blues"
        if low < 0:  # costs: red where the model is better without the head
            cmap, high = "RdBu", max(-low, high)
            low = -high
        shown = axes.imshow(scores, cmap=cmap, aspect="auto", vmin=low, vmax=max(high, low + 1e-9))
        axes.grid(visible=False)
        axes.set_xlabel("head")
        axes.set_ylabel("layer")
        _whole_numbers(axes.xaxis, axes.yaxis)
        if scores.size <= NUMBERED:
            for (layer, head), value in np.ndenumerate(scores):
                dark = abs(value) > 0.6 * high
                number, color = f"{value:z.{digits}f}", "w" if dark else "k"
                axes.text(head, layer, number, ha="center", va="center", color=color, fontsize=8)
        else:
            axes.figure.colorbar(shown, ax=axes)

    alt = f"{title} by layer and head; the largest is {scores[place]:z.3f}, of head {head_name(*place)}"
    return figure((title, note, alt), draw)


def _whole_numbers(*axes: "Axis") -> None:
    from matplotlib.ticker import MaxNLocator  # here because it takes a second

    for axis in axes:
        axis.set_major_locator(MaxNLocator(12, integer=True))


def _lens_figure(study: Study) -> str:
    losses, agreement = study.lens_loss_nats, study.lens_agreement
    places = np.arange(len(losses))

    def draw(axes: "Axes") -> None:
        axes.plot(places, losses, "o-", color=COLORS[0], markersize=3, label="loss, nats")
        axes.set_ylabel("nats")
        axes.set_xlabel("layer")
        _whole_numbers(axes.xaxis)
        right = axes.twinx()
        right.plot(places, 100 * agreement, "s--", color=COLORS[1], markersize=3)
        right.set_ylim(0, 103)
        right.set_ylabel("agrees with the model, %", color=COLORS[1])
        right.grid(visible=False)

    alt = "; ".join(
        f"layer {i}: {a:.3f} nats, agrees at {b:.0%}" for i, (a, b) in enumerate(zip(losses, agreement, strict=True))
    )
    return figure(("Logit lens", f"the head after each layer{_lens_part(study)}", alt), draw)


def _distance_figure(study: Study) -> str:
    share, edges = distance_bins(study.distance)
    layers, heads = study.entropy.shape
    table = share.reshape(layers * heads, -1)

    def draw(axes: "Axes") -> None:
        axes.imshow(np.sqrt(table), cmap="Blues", aspect="auto", vmin=0, vmax=1, interpolation="nearest")
        axes.grid(visible=False)
        axes.set_xticks(range(len(edges) - 1), [_bin(*ends) for ends in itertools.pairwise(edges)], fontsize=7)
        every = max(1, layers // 16)
        axes.set_yticks(np.arange(0, layers, every) * heads, [str(i) for i in range(0, layers, every)])
        for layer in range(1, layers):
            axes.axhline(layer * heads - 0.5, color="#c9cfd8", linewidth=0.6)
        axes.set_xlabel("tokens before")
        axes.set_ylabel("layer, a line for each head")

    height = min(8.0, max(2.7, 0.09 * layers * heads))
    middle = study.mean_distance.mean(axis=1)
    alt = "; ".join(f"layer {i}: {d:.1f} tokens before on average" for i, d in enumerate(middle))
    words = ("Attention by distance", "darker: a larger share, as its square root", alt)
    return figure(words, draw, wide=True, size=(4.8, height), wide_size=(9.6, min(6.0, height)))


def distance_bins(share: Array) -> tuple[Array, list[int]]:
    """Shares by distance [..., T], added up from 0, 1, 2, 4, 8, ... on: [..., bins], and where these begin and end."""
    edges = [0, *(1 << i for i in range(share.shape[-1].bit_length()) if 1 << i < share.shape[-1])]
    return np.add.reduceat(share, edges, axis=-1), [*edges, share.shape[-1]]


def _bin(first: int, end: int) -> str:
    return str(first) if end == first + 1 else f"{first}–{end - 1}"


def _repeat_figure(study: Study) -> str:
    losses = study.repeat_loss_nats[:-1]
    half = len(study.repeat_loss_nats) // 2

    def draw(axes: "Axes") -> None:
        axes.plot(np.arange(1, len(losses) + 1), losses, color=COLORS[0])
        axes.axvline(half, color=COLORS[1], linewidth=1)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("nats")
        axes.set_xlabel("place of the token")

    first, second = first_and_second(study)
    alt = f"loss {first:.3f} nats in the first half, {second:.3f} in the second"
    return figure(("Loss on repeated random tokens", "the line: where they repeat", alt), draw)


def _maps_that_stand_out(study: Study) -> list[str]:
    induction, previous = _largest(study.induction), _largest(study.previous_token)
    return [
        _head_figure(
            study.repeat_maps, study.repeat_tokens, induction, "largest induction score, on random tokens twice"
        ),
        _head_figure(study.text_maps, study.text_tokens, previous, "largest previous-token score, on the text"),
    ]


def _head_figure(maps: NDArray[Any], tokens: NDArray[np.str_], place: tuple[int, int], note: str) -> str:
    name = head_name(*place)
    weights, labels = maps[place][:LABELLED, :LABELLED], tokens.tolist()[:LABELLED]
    caption = f"<figcaption>Head {name} <small>{escape(note)}</small></figcaption>"
    return f"<figure>{caption}{head_map(weights, labels, f'Attention of head {name}')}</figure>"


def _all_maps(study: Study) -> list[str]:
    parts = [
        "<h2>Every head on the text</h2>", "<main>",
        '<p class="wide">From the token of a line to that of a column; darker: a larger weight, as its square root.'
        f" The text: <small>{escape(show(study.text))}</small></p>",
    ]  # fmt: skip
    for layer, maps in enumerate(study.text_maps):
        pictures = (_small(weights, head_name(layer, head)) for head, weights in enumerate(maps))
        parts.append(f'<div class="wide"><b>Layer {layer}</b><div class="heads">{"".join(pictures)}</div></div>')
    return [*parts, "</main>"]


def _small(weights: NDArray[Any], name: str) -> str:
    image = f'<img src="{pixels(shades(weights))}" alt="attention of head {name}">'
    return f"<figure>{image}<figcaption>{name}</figcaption></figure>"
