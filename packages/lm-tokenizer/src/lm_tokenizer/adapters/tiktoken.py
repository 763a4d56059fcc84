"""tiktoken's encodings, through that library: published ones by name, others from files of ranks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_tokenizer.adapters.protocol import Adapter, needed, one_line
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.files import naming, read_json, write_files
from lm_tokenizer.formats.tiktoken import encoding_of, ranks_to_bytes, read_ranks
from lm_tokenizer.pretokenize import expression_of
from lm_tokenizer.vocab import check_special_tokens

_RANKS, _SETTINGS = "ranks.tiktoken", "tiktoken.json"


class TiktokenTokenizer(Adapter):
    """A `tiktoken.Encoding`. A special token counts the bytes of its name."""

    name = "tiktoken"

    def __init__(self, ranks: Mapping[bytes, int], pattern: str, special_tokens: Mapping[str, int]) -> None:
        """Make an encoding of ranks, a pattern (a regular expression) and special tokens.

        Raises:
            TokenizerError: when the library is not installed, or refuses them; or when a byte has no rank.
        """
        library = needed("tiktoken")
        self._ranks, self._pattern = dict(ranks), pattern
        if not all(bytes([byte]) in self._ranks for byte in range(256)):
            raise TokenizerError("the ranks are not byte-level: not every byte has one")
        check_special_tokens(special_tokens)
        try:
            self._encoding: Any = library.Encoding(
                "custom", pat_str=pattern, mergeable_ranks=self._ranks, special_tokens=dict(special_tokens)
            )
        except Exception as error:  # ValueError, or what its bindings make of wrong types
            raise TokenizerError(f"tiktoken cannot make this encoding: {one_line(error)}") from None
        super().__init__(self._encoding.n_vocab, special_tokens)

    def __reduce__(self) -> tuple[Any, ...]:
        return TiktokenTokenizer, (self._ranks, self._pattern, self.special_tokens)

    @classmethod
    def load(cls, name_or_path: str) -> "TiktokenTokenizer":
        """A published encoding by its name, a file of ranks, or a folder that `save` wrote.

        A file has the pattern and the special tokens that its name implies, as in `formats.load`. A published encoding
        is one that tiktoken finds in its cache or downloads.

        Raises:
            TokenizerError: when the library is not installed, a file is missing or malformed, or the name unknown.
        """
        path = Path(name_or_path)
        if path.is_dir():
            match read_json(path / _SETTINGS):
                case {"pattern": str(pattern), "special_tokens": dict(special_tokens)}:
                    with naming(path):
                        return cls(read_ranks(path / _RANKS), pattern, special_tokens)
            raise TokenizerError(f"{path / _SETTINGS}: it should have a `pattern` and `special_tokens`")
        if path.suffix == ".tiktoken" or path.exists():
            ranks = read_ranks(path)
            named = encoding_of(path, ranks)
            with naming(path):
                return cls(ranks, expression_of(named.pattern), named.special_tokens)
        library = needed("tiktoken")
        try:
            encoding = library.get_encoding(name_or_path)
        except Exception as error:  # an unknown name is a ValueError; what a download raises is the transport's affair
            reason = one_line(error)
            raise TokenizerError(
                f"tiktoken has no encoding {name_or_path!r} here; pass a file of ranks: {reason}"
            ) from None
        return cls(encoding._mergeable_ranks, encoding._pat_str, encoding._special_tokens)

    def save(self, folder: Path) -> None:
        """Write `ranks.tiktoken`, and `tiktoken.json` with what ranks leave out, into a folder."""
        settings = {"pattern": self._pattern, "special_tokens": self.special_tokens}
        said = json.dumps(settings, ensure_ascii=False, indent=1).encode()
        write_files(Path(folder), {_RANKS: ranks_to_bytes(self._ranks), _SETTINGS: said})

    def _encode(self, text: str) -> list[int]:
        return list(self._encoding.encode_ordinary(text))

    def _decode(self, ids: list[int]) -> str:
        try:
            return str(self._encoding.decode(ids))
        except KeyError as error:
            raise TokenizerError(f"no token has the id {error.args[0]}") from None

    def _content(self) -> bytes:
        settings = json.dumps([self._pattern, sorted(self.special_tokens.items())])
        return settings.encode() + b"\0" + ranks_to_bytes(self._ranks)

    def _byte_lengths(self) -> list[int]:
        lengths = [0] * self.vocab_size
        for token, token_id in self._ranks.items():
            lengths[token_id] = len(token)
        for text, token_id in self.special_tokens.items():
            lengths[token_id] = len(text.encode())
        return lengths
