"""Any tokenizer of Hugging Face's `tokenizers`, through that library."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lm_tokenizer.adapters.protocol import Adapter, needed, one_line
from lm_tokenizer.adapters.source import Source, parts_of
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.files import read_text, write_whole
from lm_tokenizer.special import Choice
from lm_tokenizer.surrogates import as_unicode
from lm_tokenizer.vocab import check_special_tokens, from_printable

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_UNKNOWN = "<unk>"


class HuggingFaceTokenizer(Adapter):
    """A `tokenizers.Tokenizer` without what it does to a batch: truncation, padding, tokens around a text.

    With all special tokens allowed the library finds them itself, with what is left and right of them as their flags
    say. One with such a flag (lstrip, rstrip, single_word) cannot be allowed without the others.

    `byte_lengths` are known for the decoders ByteLevel and Metaspace and for SentencePiece's with byte fallback. The
    latter two drop the space that they put before a text; it is counted nonetheless.
    """

    name = "hf"

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())  # a copy, to be changed
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # as text: what is special is decided before
        added = self._tokenizer.get_added_tokens_decoder().items()
        size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        super().__init__(size, {token.content: token_id for token_id, token in added if token.special})
        self._flagged = frozenset(
            token.content for _, token in added if token.special and (token.lstrip or token.rstrip or token.single_word)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_text, (self._tokenizer.to_str(),)

    @classmethod
    def load(cls, path: Path) -> "HuggingFaceTokenizer":
        """Read a `tokenizer.json`, or a folder with one.

        Raises:
            TokenizerError: when the library is not installed, or the file is missing or not one that it reads.
        """
        path = path / "tokenizer.json" if path.is_dir() else path
        library, text = needed("tokenizers"), read_text(path)
        try:
            return cls(library.Tokenizer.from_str(text))
        except Exception as error:  # the library raises just this
            raise TokenizerError(f"{path}: tokenizers cannot read it: {one_line(error)}") from None

    @classmethod
    def train(
        cls,
        source: Source,
        vocab_size: int,
        special_tokens: Sequence[str] = (),
        *,
        pre_tokenizer: Literal["bytes", "whitespace"] = "bytes",
        min_frequency: int = 0,
    ) -> "HuggingFaceTokenizer":
        """Learn a BPE by the library's own trainer.

        Args:
            source: a file, a folder, or an iterable of texts and files.
            vocab_size: the most tokens there may be, the alphabet and the special tokens among them.
            special_tokens: get the first ids.
            pre_tokenizer: "bytes" is GPT-2's, from which every text comes back. "whitespace" is that of the library's
                quick tour: words and runs of punctuation. A text then comes back with one space between them, whatever
                there was, and a character that the corpus lacks is lost as `<unk>`.
            min_frequency: a pair must occur so often to be merged.

        Raises:
            TokenizerError: when the library is not installed, the corpus cannot be read or is empty, or `vocab_size` is
                too small.
        """
        library, names = needed("tokenizers"), check_special_tokens(special_tokens)
        if pre_tokenizer == "bytes":
            tokenizer = library.Tokenizer(library.models.BPE())
            tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = library.decoders.ByteLevel()
            options: dict[str, Any] = {"initial_alphabet": library.pre_tokenizers.ByteLevel.alphabet()}
        else:
            names = names if _UNKNOWN in names else [_UNKNOWN, *names]
            tokenizer = library.Tokenizer(library.models.BPE(unk_token=_UNKNOWN))
            # The mark before a word is what tells its pieces from words; a suffix would be numbered by hash order.
            parts = [library.pre_tokenizers.Whitespace(), library.pre_tokenizers.Metaspace(prepend_scheme="always")]
            tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence(parts)
            tokenizer.decoder = library.decoders.Metaspace(prepend_scheme="always")
            options = {}
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=names, show_progress=False, **options
        )
        number = 0

        def counted() -> Iterator[str]:
            nonlocal number
            for part in parts_of(source):
                number += 1
                yield part

        tokenizer.train_from_iterator(counted(), trainer)
        if not number:
            raise TokenizerError("the corpus is empty: there is nothing to learn from")
        if (least := tokenizer.get_vocab_size()) > vocab_size:
            raise TokenizerError(
                f"vocab_size {vocab_size:,} is too small: the alphabet and the special tokens alone are {least:,}"
            )
        return cls(tokenizer)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` into a folder."""
        write_whole(Path(folder) / "tokenizer.json", self._content())

    def encode(self, text: str, *, allowed_special: Choice = (), disallowed_special: Choice = "all") -> list[int]:
        """The ids of a text; nothing is added around it. Raises as `Adapter.encode`."""
        if self.special_tokens and (allowed_special == "all" or self.special_tokens.keys() <= set(allowed_special)):
            whole = as_unicode(text)
            return list(self._finding_special_tokens.encode(whole, add_special_tokens=False).ids)
        if flagged := self._flagged.intersection(allowed_special):
            raise TokenizerError(
                f"the special token {min(flagged)!r} depends on the text around it (lstrip, rstrip or single_word), "
                f'and is found with all the others alone: pass allowed_special="all"'
            )
        return super().encode(text, allowed_special=allowed_special, disallowed_special=disallowed_special)

    @cached_property
    def _finding_special_tokens(self) -> Any:
        tokenizer = type(self._tokenizer).from_str(self._tokenizer.to_str())
        tokenizer.encode_special_tokens = False
        return tokenizer

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def _content(self) -> bytes:
        return str(self._tokenizer.to_str()).encode()

    def _byte_lengths(self) -> list[int]:
        length_of = _length_by(self._document.get("decoder"))
        lengths = [0] * self.vocab_size
        for token, token_id in self._tokenizer.get_vocab().items():
            lengths[token_id] = length_of(token)
        return lengths

    @cached_property
    def _document(self) -> Mapping[str, Any]:
        return dict(json.loads(self._tokenizer.to_str()))


def _from_text(text: str) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(needed("tokenizers").Tokenizer.from_str(text))


def _length_by(decoder: Any) -> Any:
    """A function token -> bytes that it adds to the text."""
    decoder = decoder or {"type": None}
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        return _length_of_printable
    if kinds <= {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"} and kinds & {"Metaspace", "Replace"}:
        space = next(_space_of(step) for step in steps if step["type"] in ("Metaspace", "Replace"))
        has_bytes = "ByteFallback" in kinds
        return lambda token: 1 if has_bytes and _BYTE.fullmatch(token) else len(token.replace(space, " ").encode())
    raise TokenizerError(
        f"how many bytes a token adds to the text is not known for the decoder {' + '.join(sorted(map(str, kinds)))}"
    )


def _space_of(step: Mapping[str, Any]) -> str:
    return str(step["replacement"] if step["type"] == "Metaspace" else step["pattern"]["String"])


def _length_of_printable(token: str) -> int:
    try:
        return len(from_printable(token))
    except TokenizerError:  # an added token, which is text
        return len(token.encode())
