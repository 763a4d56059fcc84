"""The character vocabulary: a text's distinct characters in code-point order, so every process agrees on the ids."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.errors import UserError


def code_points(text: str) -> NDArray[np.uint32]:
    """The code point of every character, as an array."""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


@dataclass(frozen=True)
class CharVocabulary:
    """Characters <-> ids. The id of a character is its rank among `characters`, which are distinct and ascend."""

    characters: str

    @classmethod
    def of(cls, text: str) -> "CharVocabulary":
        """The vocabulary of exactly the characters in `text`."""
        return cls("".join(map(chr, np.unique(code_points(text)))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> NDArray[Any]:
        """Ids of the characters: uint16 where they fit, else uint32.

        Raises:
            UserError: when a character is not in the vocabulary, naming it and where it stands.
        """
        table, points = code_points(self.characters), code_points(text)
        ids = np.searchsorted(table, points)
        unknown = np.flatnonzero(table[np.minimum(ids, len(table) - 1)] != points)
        if len(unknown):
            position = int(unknown[0])
            raise UserError(
                f"character {text[position]!r} at position {position} is not in the vocabulary of this model"
            )
        return ids.astype(np.uint16 if len(table) <= 2**16 else np.uint32)

    def decode(self, ids: Any) -> str:
        """The text of a sequence of ids."""
        return "".join(self.characters[i] for i in ids)
