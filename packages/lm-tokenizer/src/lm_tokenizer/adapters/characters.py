"""One id a character."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_tokenizer.adapters.protocol import Adapter
from lm_tokenizer.adapters.source import Source, lines_of
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.files import naming, read_json, write_whole
from lm_tokenizer.surrogates import as_unicode
from lm_tokenizer.vocab import check_special_tokens

_FILE = "characters.json"
_UNKNOWN = "<unk>"


class CharacterTokenizer(Adapter):
    """Characters in the order of their code points, then the special tokens.

    A character that it does not know is an error or, where `<unk>` is a special token, that. A special token counts,
    and is decoded to, its name.
    """

    name = "characters"

    def __init__(self, characters: str, special_tokens: Sequence[str] = ()) -> None:
        """Make one of distinct characters.

        Raises:
            TokenizerError: when there is none or one is listed twice, or for special tokens that are not fit.
        """
        special_tokens = check_special_tokens(special_tokens)
        characters = as_unicode(characters)
        self._characters = "".join(sorted(characters))
        self._points = _code_points(self._characters)
        if not characters or len(set(characters)) < len(characters):
            raise TokenizerError("a character vocabulary is of one character or more, each listed once")
        special = {text: len(characters) + i for i, text in enumerate(special_tokens)}
        self._unknown = special.get(_UNKNOWN)
        self._texts = [*self._characters, *special_tokens]
        super().__init__(len(self._texts), special)

    def __reduce__(self) -> tuple[Any, ...]:
        return CharacterTokenizer, (self._characters, tuple(self.special_tokens))

    @classmethod
    def train(
        cls, source: Source, vocab_size: int | None = None, special_tokens: Sequence[str] = ()
    ) -> "CharacterTokenizer":
        """The characters of a corpus: all, or with `<unk>` among `special_tokens` the most frequent `vocab_size`.

        Raises:
            TokenizerError: when the corpus is empty or cannot be read, or has too many characters.
        """
        counts: Counter[str] = Counter()
        for line in lines_of(source):
            counts.update(line)
        if not counts:
            raise TokenizerError("the corpus is empty: there is nothing to learn from")
        room = len(counts) if vocab_size is None else vocab_size - len(special_tokens)
        if room < 1 or (room < len(counts) and _UNKNOWN not in special_tokens):
            raise TokenizerError(
                f"the corpus has {len(counts):,} different characters, which {vocab_size:,} ids cannot hold: raise "
                f"vocab_size, or make {_UNKNOWN!r} a special token"
            )
        frequent = sorted(counts, key=lambda character: (-counts[character], character))
        return cls("".join(frequent[:room]), special_tokens)

    @classmethod
    def load(cls, path: Path) -> "CharacterTokenizer":
        """Read `characters.json`, or a folder with one.

        Raises:
            TokenizerError: when it is missing or malformed.
        """
        path = path / _FILE if path.is_dir() else path
        match read_json(path):
            case {"kind": "characters", "characters": str(characters), "special_tokens": list(special_tokens)}:
                with naming(path):
                    return cls(characters, special_tokens)
        raise TokenizerError(f"{path}: this is not a character vocabulary, which has `characters` and `special_tokens`")

    def save(self, folder: Path) -> None:
        """Write `characters.json` into a folder."""
        write_whole(Path(folder) / _FILE, self._content())

    def tokenizer_json(self) -> bytes:
        """The same as a `tokenizer.json`, for Hugging Face's libraries: an id a character, split by a pattern.

        A special token in a text is that token there, which here the caller chooses.
        """
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added = [{"id": i, "content": text, "special": True, **plain} for text, i in self.special_tokens.items()]
        each = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
        vocab = {text: i for i, text in enumerate(self._texts)}
        document = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": each,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": _UNKNOWN},
        }
        return json.dumps(document, ensure_ascii=False).encode()

    def _encode(self, text: str) -> list[int]:
        points = _code_points(text)
        ids = np.minimum(np.searchsorted(self._points, points), len(self._points) - 1)
        unknown = np.flatnonzero(self._points[ids] != points)
        if len(unknown):
            if self._unknown is None:
                at = int(unknown[0])
                raise TokenizerError(
                    f"the character {text[at]!r}, after {text[max(0, at - 20) : at]!r}, is not in the vocabulary: "
                    f"learn it from a text that has it, or make {_UNKNOWN!r} a special token"
                )
            ids[unknown] = self._unknown
        found: list[int] = ids.tolist()
        return found

    def _decode(self, ids: list[int]) -> str:
        return "".join([self._texts[i] for i in ids])

    def _content(self) -> bytes:
        document = {"kind": "characters", "characters": self._characters, "special_tokens": list(self.special_tokens)}
        return json.dumps(document, ensure_ascii=False).encode()

    def _byte_lengths(self) -> list[int]:
        return [len(text.encode()) for text in self._texts]


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
