"""SentencePiece models, trained and used through that library."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lm_tokenizer.adapters.protocol import Adapter, needed, one_line
from lm_tokenizer.adapters.source import Source, lines_of
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.files import naming, read_bytes, write_whole
from lm_tokenizer.special import NAMES_OF_THE_END
from lm_tokenizer.vocab import check_special_tokens

_FILE = "tokenizer.model"
_UNKNOWN = "<unk>"


class SentencePieceTokenizer(Adapter):
    """A SentencePiece model. Its control pieces are the special tokens.

    `byte_lengths`: a piece counts its text, with ▁ as the one byte of a space; a byte piece counts 1, a control piece
    0, the unknown piece what it is decoded to. The space that many models put before a text, and drop when they decode,
    is counted with the first piece. A model that normalizes texts decodes to the normalized text.
    """

    name = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        library = needed("sentencepiece")
        try:
            self._processor: Any = library.SentencePieceProcessor(model_proto=model)
        except Exception as error:  # RuntimeError, or what its bindings make of damage
            raise TokenizerError(f"this is not a SentencePiece model: {one_line(error)}") from None
        self._model = model
        processor = self._processor
        size = processor.get_piece_size()
        control = {processor.id_to_piece(i): i for i in range(size) if processor.is_control(i)}
        super().__init__(size, control, processor.eos_id() if processor.eos_id() >= 0 else None)

    def __reduce__(self) -> tuple[Any, ...]:
        return SentencePieceTokenizer, (self._model,)

    @classmethod
    def load(cls, path: Path) -> "SentencePieceTokenizer":
        """Read a model, or a folder with a `tokenizer.model`.

        Raises:
            TokenizerError: when the library is not installed, or the file is missing or not a model.
        """
        path = path / _FILE if path.is_dir() else path
        with naming(path):
            return cls(read_bytes(path))

    @classmethod
    def train(
        cls,
        source: Source,
        vocab_size: int,
        special_tokens: Sequence[str] = (),
        *,
        model_type: Literal["unigram", "bpe"] = "unigram",
        threads: int = 1,
    ) -> "SentencePieceTokenizer":
        """Learn a model that gives every text back exactly: no normalization, unknown characters as bytes.

        Args:
            source: a file, a folder, or an iterable of texts and files.
            vocab_size: the most pieces there may be, the 256 bytes, `<unk>` and the special tokens among them.
            special_tokens: become control pieces; the end of a text is the first one of a usual name, else `</s>`.
                `<unk>` is the unknown piece, listed or not.
            model_type: unigram or bpe.
            threads: that the library uses.

        Raises:
            TokenizerError: when the library is not installed, the corpus cannot be read or is empty, or `vocab_size` is
                too small.
        """
        library = needed("sentencepiece")
        special_tokens = check_special_tokens(special_tokens)
        end = next((token for token in special_tokens if token in NAMES_OF_THE_END), "</s>")
        lines = (text for line in lines_of(source) if (text := line.rstrip("\n")))
        out = io.BytesIO()
        try:
            library.SentencePieceTrainer.train(
                sentence_iterator=lines,
                model_writer=out,
                vocab_size=vocab_size,
                model_type=model_type,
                num_threads=threads,
                control_symbols=[token for token in special_tokens if token not in (end, _UNKNOWN)],
                unk_id=0,
                unk_piece=_UNKNOWN,
                eos_id=1,
                eos_piece=end,
                bos_id=-1,
                pad_id=-1,
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,  # else an indent takes a piece for each space
                add_dummy_prefix=False,
                hard_vocab_limit=False,
                max_sentence_length=1 << 30,
                minloglevel=2,
            )
        except TokenizerError:
            raise
        except Exception as error:  # RuntimeError with a line of the library's source
            raise TokenizerError(
                f"SentencePiece cannot learn {vocab_size:,} pieces from this corpus: {one_line(error)}"
            ) from None
        return cls(out.getvalue())

    def save(self, folder: Path) -> None:
        """Write `tokenizer.model` into a folder."""
        write_whole(Path(folder) / _FILE, self._model)

    def _encode(self, text: str) -> list[int]:
        return list(self._processor.encode(text))

    def _decode(self, ids: list[int]) -> str:
        return str(self._processor.decode(ids))

    def _content(self) -> bytes:
        return self._model

    def _byte_lengths(self) -> list[int]:
        return [self._byte_length(token_id) for token_id in range(self.vocab_size)]

    def _byte_length(self, token_id: int) -> int:
        processor = self._processor
        if processor.is_control(token_id):
            return 0
        if processor.is_byte(token_id):
            return 1
        if processor.is_unknown(token_id):
            return len(processor.decode([token_id]).encode())
        return len(processor.id_to_piece(token_id).replace("▁", " ").encode())
