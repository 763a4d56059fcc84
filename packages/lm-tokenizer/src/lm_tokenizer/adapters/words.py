"""One id a word, as the Penn Treebank and WikiText are counted."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_tokenizer.adapters.protocol import Adapter
from lm_tokenizer.adapters.source import Source, lines_of
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.files import naming, read_json, write_whole
from lm_tokenizer.special import Choice
from lm_tokenizer.surrogates import as_unicode
from lm_tokenizer.vocab import check_special_tokens

_FILE = "words.json"
UNKNOWN, END_OF_LINE = "<unk>", "<eos>"


class WordTokenizer(Adapter):
    r"""Words are separated by white space, the end of a line (`\n`) is `<eos>`, an unknown word is `<unk>`.

    Ids: `<unk>`, `<eos>`, further special tokens, then the words as they are given: by falling frequency when they are
    learned. A special token that stands in a text as a word is that token, whatever the choice of special tokens.

    `byte_lengths`: a word counts its text and one space, `<eos>` counts 1. That is the text `decode` gives, in which a
    space follows every word; other white space is not kept.
    """

    name = "words"

    def __init__(self, words: Sequence[str], special_tokens: Sequence[str] = ()) -> None:
        """Make one of distinct words.

        Raises:
            TokenizerError: when one is empty, holds white space, is listed twice or is not Unicode.
        """
        special = [UNKNOWN, END_OF_LINE, *(token for token in special_tokens if token not in (UNKNOWN, END_OF_LINE))]
        special = check_special_tokens(special)
        self._words = [*special, *words]
        for word in self._words:
            if not isinstance(word, str) or word.split() != [word]:
                raise TokenizerError(f"{word!r:.40} is not a word: a word has a character or more, and no white space")
        self._words = as_unicode(" ".join(self._words)).split(" ")
        self._ids = {word: i for i, word in enumerate(self._words)}
        if len(self._ids) < len(self._words):
            twice = next(word for i, word in enumerate(self._words) if self._ids[word] != i)
            raise TokenizerError(f"the word {twice!r} is listed twice")
        super().__init__(len(self._words), {token: i for i, token in enumerate(special)}, self._ids[END_OF_LINE])

    def __reduce__(self) -> tuple[Any, ...]:
        return WordTokenizer, (self._words[len(self.special_tokens) :], tuple(self.special_tokens))

    @classmethod
    def train(
        cls, source: Source, vocab_size: int | None = None, special_tokens: Sequence[str] = ()
    ) -> "WordTokenizer":
        """The words of a corpus: all, or the most frequent ones; equally frequent ones in the order of their text.

        Raises:
            TokenizerError: when the corpus has no word or cannot be read, or `vocab_size` leaves no room for one.
        """
        counts: Counter[str] = Counter()
        for line in lines_of(source):
            counts.update(line.split())
        special = {UNKNOWN, END_OF_LINE, *special_tokens}
        words = sorted(counts.keys() - special, key=lambda word: (-counts[word], word))
        if not words:
            raise TokenizerError("the corpus has no words: there is nothing to learn from")
        room = len(words) if vocab_size is None else vocab_size - len(special)
        if room < 1:
            raise TokenizerError(f"vocab_size is {vocab_size}; {len(special)} special tokens and a word need more")
        return cls(words[:room], special_tokens)

    @classmethod
    def load(cls, path: Path) -> "WordTokenizer":
        """Read `words.json`, or a folder with one.

        Raises:
            TokenizerError: when it is missing or malformed.
        """
        path = path / _FILE if path.is_dir() else path
        match read_json(path):
            case {"kind": "words", "words": list(words), "special_tokens": list(special_tokens)}:
                with naming(path):
                    return cls(words, special_tokens)
        raise TokenizerError(f"{path}: this is not a word vocabulary, which has `words` and `special_tokens`")

    def save(self, folder: Path) -> None:
        """Write `words.json` into a folder."""
        write_whole(Path(folder) / _FILE, self._content())

    def encode(self, text: str, *, allowed_special: Choice = (), disallowed_special: Choice = "all") -> list[int]:
        """The ids of a text; the choice of special tokens is without effect.

        Raises:
            TokenizerError: when the text holds a lone surrogate.
        """
        return self._encode(as_unicode(text))

    def _encode(self, text: str) -> list[int]:
        known, unknown, end = self._ids, self._ids[UNKNOWN], self._ids[END_OF_LINE]
        ids: list[int] = []
        for number, line in enumerate(text.split("\n")):
            if number:
                ids.append(end)
            ids += [known.get(word, unknown) for word in line.split()]
        return ids

    def _decode(self, ids: list[int]) -> str:
        words, end = self._words, self._ids[END_OF_LINE]
        return "".join(["\n" if i == end else words[i] + " " for i in ids])

    def _content(self) -> bytes:
        special = list(self.special_tokens)
        document = {"kind": "words", "special_tokens": special, "words": self._words[len(special) :]}
        return json.dumps(document, ensure_ascii=False).encode()

    def _byte_lengths(self) -> list[int]:
        return [1 if word == END_OF_LINE else len(word.encode()) + 1 for word in self._words]
