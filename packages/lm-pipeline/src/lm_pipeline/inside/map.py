"""A map of a head as SVG: a shade for each query and key, and their tokens beside it."""

import unicodedata
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.page import pixels
from lm_core.terminal import show

CELL, SHORTEST, LONGEST = 14, 2, 10
"""Pixels of a token, and characters of a label."""


def shades(weights: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Of attention weights: their square roots, so that a tenth is still seen."""
    return np.asarray(np.sqrt(weights))


def head_map(weights: NDArray[np.floating[Any]], tokens: Sequence[str], alt: str) -> str:
    """The weights [M, M] of a head, from the tokens at the left to those above; `alt` is text."""
    labels = [label(token) for token in tokens]
    room = 12 + 7 * max(map(_columns, labels))
    side = room + CELL * len(labels)
    middles = [room + CELL * (i + 0.7) for i in range(len(labels))]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" role="img" aria-label="{escape(alt)}"'
        ' font-family="ui-monospace, monospace" font-size="11" fill="#1c2430">',
        f'<rect width="{side}" height="{side}" fill="#fff"/>',
        f'<image x="{room}" y="{room}" width="{side - room}" height="{side - room}" preserveAspectRatio="none"'
        f' style="image-rendering: pixelated" href="{pixels(shades(weights))}"/>',
        f'<rect x="{room}" y="{room}" width="{side - room}" height="{side - room}" fill="none" stroke="#dfe3e8"/>',
    ]
    for place, text in zip(middles, map(escape, labels), strict=True):
        parts.append(f'<text x="{room - 4}" y="{place:.1f}" text-anchor="end" xml:space="preserve">{text}</text>')
        parts.append(
            f'<text transform="translate({place:.1f} {room - 4}) rotate(-90)" xml:space="preserve">{text}</text>'
        )
    return "".join([*parts, "</svg>"])


def label(token: str) -> str:
    """A token as it is shown: a space, a line break or a tab by a sign, and cut where it is long."""
    text = token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    text = show(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _columns(text: str) -> int:
    """Width of a label, where a character of East Asia takes two columns."""
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)
