"""Rows of ids brought to one length, and as arrays, as `transformers` does it."""

import sys
from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lm_tokenizer.errors import TokenizerError

Rows = list[list[Any]]
Side = Literal["left", "right"]
Padding = bool | Literal["longest", "max_length", "do_not_pad"]
Tensors = Literal["np", "pt"] | None

ENDLESS = int(1e30)
"""Length without a limit, as in `transformers`."""


class Encoded(UserDict[str, Any]):
    """Result of encoding, by name and as attributes: input_ids, attention_mask, ..."""

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(name)
        return self.data[name]


def target_length(lengths: Sequence[int], padding: Padding, most: int, multiple_of: int | None) -> int | None:
    """The length that rows of these lengths are padded to; None where they are not.

    Args:
        lengths: of the rows.
        padding: what was asked for.
        most: the length of "max_length"; ENDLESS is none.
        multiple_of: the result is rounded up to a multiple of it.

    Raises:
        TokenizerError: for another kind of padding.
    """
    if padding not in (True, False, "longest", "max_length", "do_not_pad"):
        raise TokenizerError(f'padding {padding!r}: must be a truth, "longest", "max_length" or "do_not_pad"')
    if padding in (False, "do_not_pad") or (padding == "max_length" and most >= ENDLESS):
        return None
    length = most if padding == "max_length" else max(lengths, default=0)
    return -(-length // multiple_of) * multiple_of if multiple_of else length


def padded(columns: Mapping[str, Rows], length: int, fill: Mapping[str, Any], side: Side) -> dict[str, Rows]:
    """The columns, those in `fill` with rows that are filled up to `length` on a side."""

    def row_of(name: str, row: list[Any]) -> list[Any]:
        missing = [fill[name]] * (length - len(row))
        return missing + row if side == "left" else row + missing

    return {name: [row_of(name, row) for row in rows] if name in fill else rows for name, rows in columns.items()}


def as_tensors(columns: Mapping[str, Any], kind: Tensors) -> dict[str, Any]:
    """Lists as int64 arrays of numpy ("np") or tensors of torch ("pt"), which the caller has imported.

    Raises:
        TokenizerError: for rows of unequal length, another kind, or where torch is not there.
    """
    if kind is None:
        return dict(columns)
    if kind not in ("np", "pt"):
        raise TokenizerError(f'return_tensors {kind!r}: must be "np" or "pt"')
    arrays = {}
    for name, rows in columns.items():
        try:
            arrays[name] = np.array(rows, np.int64)
        except ValueError:
            raise TokenizerError(
                f"{name} has rows of unequal length, which make no array: pass padding=True and truncation=True"
            ) from None
    if kind == "np":
        return arrays
    torch = sys.modules.get("torch")  # this package imports no framework
    if torch is None:
        raise TokenizerError('return_tensors "pt" needs torch: import it first, or pass "np"')
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
