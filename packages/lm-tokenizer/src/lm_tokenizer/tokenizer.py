"""The tokenizer: text -> ids -> text, by the readable path for a prompt and by compiled kernels for a corpus.

    text --special tokens--> stretches --small--> words.py, Python with a memory of pretokens
                                       --large--> large.py, engine.py: kernels in threads

Loading numpy and the kernels takes 0.2 s, so a process that has encoded little never does. While the kernels are
compiled, once on a machine, the readable path goes on.
"""

import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lm_tokenizer import formats
from lm_tokenizer.errors import TokenizerError, for_each
from lm_tokenizer.saved import Saved
from lm_tokenizer.special import NAMES_OF_THE_END, Choice, Found, SpecialTokens
from lm_tokenizer.surrogates import as_unicode
from lm_tokenizer.threads import thread_count
from lm_tokenizer.vocab import Vocabulary
from lm_tokenizer.words import LongPretokenError, Words, decoded

if TYPE_CHECKING:
    import numpy as np

    from lm_tokenizer.engine import Engine
    from lm_tokenizer.faces.huggingface import HuggingFaceFace
    from lm_tokenizer.faces.tiktoken import TiktokenFace
    from lm_tokenizer.reference import TieBreak
    from lm_tokenizer.stream import StreamDecoder

Text = str | bytes
Errors = Literal["strict", "replace"]
Path_ = str | os.PathLike[str]

SMALL, SMALL_WHEN_LOADED, SMALL_WHILE_COMPILING, TINY = 1 << 19, 1 << 17, 1 << 23, 1 << 9
"""Bytes that a tokenizer encodes, and ids that it decodes, before it uses the kernels, and if some other tokenizer has
loaded them; and of a text that the readable path encodes while they are compiled, and always."""
PART, LARGE_PART = 1 << 16, 1 << 24
"""Bytes of text that a stream, and a file, is encoded by."""


class Tokenizer(Saved):
    """A byte-level BPE. Immutable; may be shared by threads, forked and pickled.

    Texts are `str`, or `bytes` of UTF-8. Special tokens in them are handled as `allowed_special` and
    `disallowed_special` say (see `special.SpecialTokens`): by default one in the text is an error. What is not UTF-8
    (in a `str`, a lone surrogate) is an error that says where, or with errors="replace" becomes U+FFFD; a surrogate
    pair in a `str` is the character that it stands for.
    """

    name = "bpe"  # of this kind of tokenizer, among the adapters

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._special = SpecialTokens(vocabulary.special_tokens, vocabulary.added_tokens)
        self._words = Words(vocabulary)
        self._encoded = 0

    def __reduce__(self) -> tuple[object, ...]:
        return Tokenizer, (self.vocabulary,)

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size:,} tokens, pattern {self.vocabulary.pattern!r})"

    # Making one

    @classmethod
    def train(
        cls,
        source: "Path_ | Iterable[str | Path]",
        vocab_size: int,
        special_tokens: Sequence[str] = (),
        pattern: str = "gpt2",
        threads: int | None = None,
        progress: bool = True,
        special_tokens_first: bool = False,
        min_frequency: int = 0,
        max_token_length: int | None = None,
        tie_break: "TieBreak" = "huggingface",
    ) -> "Tokenizer":
        """Learn a vocabulary.

        Args:
            source: a file, a folder, or an iterable of texts (`str`) and files (`Path`); each is a document.
            vocab_size: the most tokens there may be, special tokens and the 256 bytes among them.
            special_tokens: cut the documents, are never counted, and get the last ids (or the first).
            pattern: a name of `pretokenize.PATTERNS`, or a regular expression.
            threads: that count the pretokens; by default one a core. The result does not depend on it.
            progress: whether to show a bar, on a terminal.
            min_frequency: a pair that occurs less often is not merged.
            max_token_length: in bytes; tokens of this length or longer are not made, but for pairs of bytes.
            tie_break: which of equally frequent pairs is merged first; see `reference.train`.

        Raises:
            TokenizerError: for an empty corpus, one that is not UTF-8 or cannot be read, or an option that is not
                possible; the latter and an empty corpus before anything is compiled.
        """
        from lm_tokenizer.corpus import Corpus
        from lm_tokenizer.options import TrainingOptions

        options = TrainingOptions(
            vocab_size, special_tokens, pattern, special_tokens_first, min_frequency, max_token_length, tie_break
        )
        corpus, threads = Corpus(source, pattern, options.special_tokens), thread_count(threads)
        units = corpus.units()
        from lm_tokenizer.train import train  # here: it imports the kernels, which come after every mistake

        return cls(train(units, corpus.size, options, threads, progress))

    @classmethod
    def from_files(
        cls, vocab_json: Path_, merges_txt: Path_, special_tokens: Sequence[str] = (), pattern: str = "gpt2"
    ) -> "Tokenizer":
        """Read GPT-2's `vocab.json` and `merges.txt`.

        A token that is not a byte and that no merge makes is special (GPT-2's `<|endoftext|>`), beside those of
        `special_tokens`, which get the ids after the last one if the vocabulary does not have them.

        Raises:
            TokenizerError: for files that are missing, malformed, or do not belong together.
        """
        return cls(formats.read_gpt2(Path(vocab_json), Path(merges_txt), special_tokens, pattern))

    @classmethod
    def load(cls, path: Path_) -> "Tokenizer":
        """Read a folder that `save` wrote, a `tokenizer.json`, or a file of tiktoken's ranks (`*.tiktoken`).

        Raises:
            TokenizerError: for a file that is missing, malformed, or holds a kind of tokenizer that this is not.
        """
        return cls(formats.load(Path(path)))

    def save(self, folder: Path_) -> None:
        """Write `tokenizer.json`, `vocab.json` and `merges.txt` into a folder, which is made if need be."""
        formats.save(self.vocabulary, Path(folder))

    # What it knows

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens among them."""
        return len(self.vocabulary.tokens)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Special token -> id; `vocabulary.added_tokens`, which are found in every text, are not among them."""
        return dict(self.vocabulary.special_tokens)

    @property
    def eos_id(self) -> int | None:
        """Id of the token that ends a text: the special token that is named as one usually is, or the only one."""
        special = self.vocabulary.special_tokens
        named = [special[name] for name in NAMES_OF_THE_END if name in special]
        return next(iter(named or special.values())) if named or len(special) == 1 else None

    @cached_property
    def byte_lengths(self) -> "np.ndarray":
        """Bytes of every id in `decode_bytes`, int64 (vocab_size,)."""
        import numpy as np

        return np.array([len(token) for token in self.vocabulary.tokens], np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of vocabulary, merges, special tokens and pattern, in hexadecimal."""
        return self.vocabulary.fingerprint

    @property
    def dtype(self) -> "type[np.uint16] | type[np.uint32]":
        """Type of the ids in arrays: uint16 for a vocabulary of up to 65,536, else uint32."""
        import numpy as np

        return np.uint32 if self.vocab_size > 1 << 16 else np.uint16

    # Encoding

    def encode(self, text: Text, *, allowed_special: Choice = (), disallowed_special: Choice = "all",
               errors: Errors = "strict") -> list[int]:  # fmt: skip
        """The ids of a text.

        Raises:
            SpecialTokenError: when the text holds a disallowed special token.
            TokenizerError: when it is not UTF-8.
        """
        if len(text) < TINY and isinstance(text, str) and not self._special.any_in(text) and errors == "strict":
            try:
                return self._words.encode(text)
            except UnicodeEncodeError:  # a surrogate
                pass
        if self._is_small(len(text)):
            try:
                return self._encode_small(text, allowed_special, disallowed_special, errors)
            except LongPretokenError:
                pass
        ids, _ = self._encode_large([text], 1, allowed_special, disallowed_special, errors)
        return ids.tolist()  # type: ignore[no-any-return]

    def _encode_small(self, text: Text, allowed: Choice, disallowed: Choice, errors: Errors) -> list[int]:
        given = decoded(text, errors) if isinstance(text, bytes) else text
        whole = as_unicode(given, errors)
        return self._encode_between(whole, self._special.find_in(given, whole, allowed, disallowed))

    def _encode_between(self, text: str, found: Sequence[Found]) -> list[int]:
        ids: list[int] = []
        at = 0
        for start, end, token_id in found:
            ids += self._words.encode(text[at:start])
            ids.append(token_id)
            at = end
        return ids + self._words.encode(text[at:])

    def encode_array(self, text: Text, *, allowed_special: Choice = (), disallowed_special: Choice = "all",
                     errors: Errors = "strict", threads: int | None = 1) -> "np.ndarray":  # fmt: skip
        """The ids of a text as an array of `dtype`, shape (n,). Raises as `encode`."""
        return self.encode_batch(
            [text], threads, allowed_special=allowed_special, disallowed_special=disallowed_special, errors=errors
        )[0]

    def encode_with_offsets(
        self, text: Text, unit: Literal["character", "byte"] = "character", *, allowed_special: Choice = (),
        disallowed_special: Choice = "all", threads: int | None = 1,
    ) -> "tuple[np.ndarray, np.ndarray]":  # fmt: skip
        """The ids of a text, shape (n,), and where each token lies in it, int64 of shape (n, 2): start and end.

        Args:
            text: in bytes or characters; the offsets count either, of both.
            unit: "byte" offsets join without a gap; "character" offsets of tokens that share a character overlap, see
                `offsets`.

        Raises:
            As `encode`.
        """
        from lm_tokenizer.offsets import byte_offsets, character_offsets

        ids = self.encode_array(
            text, allowed_special=allowed_special, disallowed_special=disallowed_special, threads=threads
        )
        offsets = byte_offsets(self.byte_lengths[ids])
        whole = text.decode() if isinstance(text, bytes) else text
        return ids, offsets if unit == "byte" else character_offsets(offsets, whole)

    def encode_batch(self, texts: Sequence[Text], threads: int | None = None, *, allowed_special: Choice = (),
                     disallowed_special: Choice = "all", errors: Errors = "strict") -> "list[np.ndarray]":  # fmt: skip
        """The ids of every text, each encoded by itself, as arrays of `dtype`, in their order.

        Args:
            threads: that share the work; by default one a core.

        Raises:
            As `encode`; a message about one of several texts begins with which.
        """
        import numpy as np

        if self._is_small(sum(map(len, texts))):
            choice: dict[str, Any] = {"allowed_special": allowed_special, "disallowed_special": disallowed_special}
            return for_each(texts, lambda text: np.array(self.encode(text, **choice, errors=errors), self.dtype))
        joined, counts = self._encode_large(texts, threads, allowed_special, disallowed_special, errors)
        if len(texts) == 1:
            return [joined]
        ends = np.cumsum(counts).tolist()
        return [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _encode_large(self, texts: Sequence[Text], threads: int | None, allowed: Choice, disallowed: Choice,
                      errors: Errors) -> "tuple[np.ndarray, np.ndarray]":  # fmt: skip
        """The ids of all texts behind one another, and how many each has."""
        from lm_tokenizer.large import encode_large

        return encode_large(self._engine, self._special, texts, thread_count(threads), allowed, disallowed, errors)

    def encode_iterable(self, texts: Iterable[str], *, allowed_special: Choice = (),
                        disallowed_special: Choice = "all") -> Iterator[int]:  # fmt: skip
        """The ids of the texts joined, one by one, in bounded memory: a file larger than memory may be read by lines.

        How the text is cut into `texts` makes no difference, so lines of a file give what the whole file gives.
        With a custom pattern the text is joined first: such a pattern promises no place to cut it.
        """
        from lm_tokenizer.corpus import parts_of_texts

        for part in parts_of_texts(texts, self.vocabulary.pattern, self.vocabulary.found_tokens, PART):
            yield from self.encode(part, allowed_special=allowed_special, disallowed_special=disallowed_special)

    def encode_file(self, path: Path_, out: Path_, *, allowed_special: Choice = (), disallowed_special: Choice = "all",
                    threads: int | None = None) -> int:  # fmt: skip
        """Encode a text file into a token file (see `token_file`), in bounded memory; the number of ids.

        Raises:
            As `encode`, and TokenizerError when a file cannot be read or written. No file `out` is left then.
        """
        from lm_tokenizer.corpus import parts_of_file
        from lm_tokenizer.token_file import TokenFileWriter

        with TokenFileWriter(
            out, self.dtype, vocab_size=self.vocab_size, fingerprint=self.fingerprint, eos_id=self.eos_id
        ) as file:
            parts = parts_of_file(Path(path), self.vocabulary.pattern, self.vocabulary.found_tokens, LARGE_PART)
            for offset, part in parts:
                try:
                    ids = self.encode_array(
                        part, allowed_special=allowed_special, disallowed_special=disallowed_special, threads=threads
                    )
                except TokenizerError as error:
                    raise TokenizerError(f"{path}, in the part from byte {offset} on: {error}") from None
                file.write(ids, text_bytes=len(part))
            file.documents = 1
        return file.tokens

    def _is_small(self, size: int) -> bool:
        """Whether the kernels are not worth loading for a text; once they are loaded, whether a call costs more."""
        if "_engine" in self.__dict__:
            return size < TINY
        self._encoded += size
        if self._encoded < (SMALL_WHEN_LOADED if "lm_tokenizer.engine" in sys.modules else SMALL):
            return True
        from lm_tokenizer._kernels.objects import is_ready

        return size < SMALL_WHILE_COMPILING and not is_ready("encoding")

    @cached_property
    def _engine(self) -> "Engine":
        from lm_tokenizer.engine import Engine

        return Engine(self.vocabulary)

    # Decoding

    def decode(self, ids: "Sequence[int] | np.ndarray", errors: Errors = "replace") -> str:
        """The text that ids stand for.

        Raises:
            TokenizerError: for an id that is not a token, and with errors="strict" for bytes that are not UTF-8.
        """
        try:
            return str(self._decoded(ids), "utf-8", errors)
        except UnicodeDecodeError as error:
            raise TokenizerError(f"the ids stand for bytes that are not UTF-8, from byte {error.start} on; "
                                 'pass errors="replace", or use decode_bytes') from None  # fmt: skip

    def decode_bytes(self, ids: "Sequence[int] | np.ndarray") -> bytes:
        """The bytes that ids stand for. Raises TokenizerError for an id that is not a token."""
        return bytes(self._decoded(ids))

    def _decoded(self, ids: "Sequence[int] | np.ndarray") -> bytes | memoryview:
        if len(ids) < (64 if "_engine" in self.__dict__ else 4 * SMALL):
            return self._joined(ids)
        import numpy as np

        from lm_tokenizer.engine import UnknownIdError

        try:  # four times as quick as numpy is with a list
            numbers = array("I", ids) if isinstance(ids, list) else ids
        except (OverflowError, TypeError):
            return self._joined(ids)
        numbers = np.asarray(numbers)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise TokenizerError(f"ids are integers, one behind another, not {numbers.dtype} of shape {numbers.shape}")
        try:
            return self._engine.decode(numbers)
        except UnknownIdError as error:
            raise self._unknown(numbers[error.position], error.position) from None

    def _joined(self, ids: "Sequence[int] | np.ndarray") -> bytes:
        tokens = self.vocabulary.tokens
        try:
            found = [tokens[i] for i in map(index, ids)]
        except IndexError:
            found = [b""]
        if b"" in found or min(ids, default=0) < 0:
            for position, token_id in enumerate(map(index, ids)):
                if not 0 <= token_id < len(tokens) or not tokens[token_id]:
                    raise self._unknown(token_id, position)
        return b"".join(found)

    def _unknown(self, token_id: int, position: int) -> TokenizerError:
        return TokenizerError(
            f"the id {token_id} at position {position} is not a token: ids are from 0 to {self.vocab_size - 1}"
        )

    def stream_decoder(self, errors: Errors = "replace") -> "StreamDecoder":
        """A decoder for ids as they come: it holds back characters that are not complete yet."""
        from lm_tokenizer.stream import StreamDecoder

        return StreamDecoder(self.vocabulary.tokens, errors)

    def as_tiktoken(self) -> "TiktokenFace":
        """This tokenizer as a `tiktoken.Encoding`, which need not be installed."""
        from lm_tokenizer.faces.tiktoken import TiktokenFace

        return TiktokenFace(self)

    def as_huggingface(self) -> "HuggingFaceFace":
        """This tokenizer as a `transformers.PreTrainedTokenizerFast`, which need not be installed."""
        from lm_tokenizer.faces.huggingface import HuggingFaceFace

        return HuggingFaceFace(self)
