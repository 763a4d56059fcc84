"""The face of `transformers.PreTrainedTokenizerFast`: the call, decoding, padding and the methods on the vocabulary.

As there, special tokens in a text get their ids, and unknown ids are skipped when they are decoded. Nothing is
added around a text. Left out are pairs of texts, chat templates and what changes the vocabulary.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.faces.padding import ENDLESS, Encoded, Padding, Rows, Side, Tensors, as_tensors, padded, target_length
from lm_tokenizer.formats.files import write_whole
from lm_tokenizer.formats.printable import named
from lm_tokenizer.tokenizer import Path_, Tokenizer
from lm_tokenizer.vocab import from_printable

_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
_TRUNCATE = (True, "longest_first", "only_first")
Ids = Any
"""An id, ids (a sequence or an array), or several of these."""


class HuggingFaceFace:
    """A tokenizer that code for `transformers` takes. `eos_token` is the tokenizer's; `pad_token` is yours to set."""

    is_fast = True
    model_input_names = ("input_ids", "attention_mask")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._roles: dict[str, str | None] = dict.fromkeys(_ROLES)
        self.padding_side: Side = "right"
        self.truncation_side: Side = "right"
        self.model_max_length = ENDLESS
        self.name_or_path = ""
        if tokenizer.eos_id is not None:
            self.eos_token = self._names[tokenizer.eos_id]

    def __repr__(self) -> str:
        return f"HuggingFaceFace({self._tokenizer!r})"

    # Encoding

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: Any = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: Tensors = None,
        return_attention_mask: bool = True,
        return_offsets_mapping: bool = False,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
    ) -> Encoded:
        """`input_ids`, `attention_mask` and what else is asked for: lists for a text, lists of lists for several.

        Args:
            text: one, or several.
            add_special_tokens: has no effect: there are none to add.
            padding: False, True or "longest" (of the batch), or "max_length".
            truncation: True to cut at `max_length`, which a `max_length` without padding does too.
            max_length: `model_max_length` where it is None.
            pad_to_multiple_of: rounds the padded length up.
            return_tensors: "np" or "pt" (torch, if it has been imported) for arrays with a row for each text.
            return_attention_mask, return_offsets_mapping, return_special_tokens_mask, return_length: further columns;
                offsets are in characters.

        Raises:
            TokenizerError: for a text that is not Unicode, padding without a `pad_token`, rows of unequal length that
                are to be an array, or lengths that contradict one another.
        """
        texts = [text] if isinstance(text, str) else list(text)
        columns = self._columns(texts, return_offsets_mapping)
        if truncation in _TRUNCATE or (truncation is None and max_length is not None and padding is False):
            length = self.model_max_length if max_length is None else max_length
            if padding not in (False, "do_not_pad") and length < ENDLESS and length % (pad_to_multiple_of or 1):
                raise TokenizerError(
                    f"max_length {length} is not a multiple of pad_to_multiple_of {pad_to_multiple_of}"
                )
            columns = self._truncated(columns, length)
        if not return_special_tokens_mask:
            del columns["special_tokens_mask"]
        columns = self._padded(columns, padding, max_length, pad_to_multiple_of)
        found: dict[str, Any] = dict(columns)
        if not return_attention_mask:
            del found["attention_mask"]
        if return_length:
            found["length"] = [len(ids) for ids in columns["input_ids"]]
        if isinstance(text, str) and return_tensors is None:
            found = {name: rows if name == "length" else rows[0] for name, rows in found.items()}
        return Encoded(as_tensors(found, return_tensors))

    def _columns(self, texts: Sequence[str], offsets: bool) -> dict[str, Rows]:
        tokenizer = self._tokenizer
        if offsets:
            both = [tokenizer.encode_with_offsets(text, allowed_special="all") for text in texts]
            ids = [found.tolist() for found, _ in both]
        else:
            both, ids = [], [found.tolist() for found in tokenizer.encode_batch(texts, allowed_special="all")]
        columns: dict[str, Rows] = {
            "input_ids": ids,
            "attention_mask": [[1] * len(row) for row in ids],
            "special_tokens_mask": [[0] * len(row) for row in ids],
        }
        if offsets:
            columns["offset_mapping"] = [list(map(tuple, places.tolist())) for _, places in both]
        return columns

    def _truncated(self, columns: Mapping[str, Rows], length: int) -> dict[str, Rows]:
        def cut(row: list[Any]) -> list[Any]:
            return row[:length] if self.truncation_side == "right" else row[max(0, len(row) - length) :]

        return {name: [cut(row) for row in rows] for name, rows in columns.items()}

    def _padded(
        self, columns: dict[str, Rows], padding: Padding, max_length: int | None, multiple_of: int | None
    ) -> dict[str, Rows]:
        most = self.model_max_length if max_length is None else max_length
        length = target_length([len(row) for row in columns["input_ids"]], padding, most, multiple_of)
        if length is None:
            return columns
        if self.pad_token_id is None:
            raise TokenizerError("there is no pad_token to pad with: set one, such as face.pad_token = face.eos_token")
        fill = {"input_ids": self.pad_token_id, "attention_mask": 0, "special_tokens_mask": 1, "offset_mapping": (0, 0)}
        return padded(columns, length, fill, self.padding_side)

    def pad(
        self,
        encoded_inputs: Any,
        padding: Padding = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: Tensors = None,
    ) -> Encoded:
        """Pad what the call gave: a mapping of columns, or a list of mappings, one for each text."""
        if not isinstance(encoded_inputs, Mapping):
            encoded_inputs = {name: [row[name] for row in encoded_inputs] for name in encoded_inputs[0]}
        columns: dict[str, Any] = {name: _listed(rows) for name, rows in encoded_inputs.items()}
        single = bool(columns["input_ids"]) and not isinstance(columns["input_ids"][0], list)
        if single:
            columns = {name: [row] for name, row in columns.items()}
        columns.setdefault("attention_mask", [[1] * len(row) for row in columns["input_ids"]])
        columns = self._padded(columns, padding, max_length, pad_to_multiple_of)
        if single and return_tensors is None:
            columns = {name: rows[0] for name, rows in columns.items()}
        return Encoded(as_tensors(columns, return_tensors))

    def encode(self, text: str, **options: Any) -> Any:
        """The `input_ids` of a call."""
        return self(text, **options)["input_ids"]

    def tokenize(self, text: str) -> list[str]:
        """The names of a text's tokens."""
        return [self._names[i] for i in self._tokenizer.encode(text, allowed_special="all")]

    # Decoding

    def decode(self, token_ids: Ids, skip_special_tokens: bool = False) -> Any:
        """The text of an id or of ids; of several lists of ids, several texts. Ids that are not tokens are skipped.

        Raises:
            OverflowError: for a negative id.
        """
        ids = _listed(token_ids)
        if isinstance(ids, int):
            ids = [ids]
        if ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens) for row in ids]
        if min(ids, default=0) < 0:
            raise OverflowError(f"the id {min(ids)} is negative")
        passed = set(self._tokenizer.special_tokens.values()) if skip_special_tokens else ()
        return self._tokenizer.decode([i for i in ids if i in self._names and i not in passed])

    def batch_decode(self, sequences: Sequence[Ids], skip_special_tokens: bool = False) -> list[str]:
        """The text of each of several ids, or lists of ids."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    # The vocabulary

    @cached_property
    def _ids(self) -> dict[str, int]:
        return named(self._tokenizer.vocabulary)

    @cached_property
    def _names(self) -> dict[int, str]:
        return {token_id: name for name, token_id in self._ids.items()}

    def get_vocab(self) -> dict[str, int]:
        """Name -> id of all tokens."""
        return dict(self._ids)

    vocab = property(get_vocab)

    def get_added_vocab(self) -> dict[str, int]:
        """Text -> id of the special and the added tokens."""
        return dict(self._tokenizer.vocabulary.found_tokens)

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def convert_ids_to_tokens(self, ids: Ids, skip_special_tokens: bool = False) -> Any:
        """The name of an id, or the names of ids; None where there is no such token. Those of roles may be skipped."""
        ids = _listed(ids)
        if isinstance(ids, int):
            return self._names.get(ids)
        passed = self.all_special_ids if skip_special_tokens else ()
        return [self._names.get(i) for i in ids if i not in passed]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a name, or the ids of names; that of `unk_token` where there is no such token."""
        if isinstance(tokens, str):
            return self._ids.get(tokens, self.unk_token_id)
        return [self._ids.get(token, self.unk_token_id) for token in tokens]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of tokens given by their names."""
        return b"".join(map(self._bytes_of, tokens)).decode(errors="replace")

    def _bytes_of(self, name: str) -> bytes:
        token_id = self._ids.get(name)
        if token_id is not None:
            return self._tokenizer.vocabulary.tokens[token_id]
        try:
            return from_printable(name)
        except TokenizerError:
            return name.encode()

    # Special tokens by their roles: bos_token, eos_token, unk_token, pad_token, and the id of each

    def __getattr__(self, name: str) -> Any:
        roles = self.__dict__.get("_roles", {})
        if name in roles:
            return roles[name]
        if name.removesuffix("_id") in roles:
            token = roles[name.removesuffix("_id")]
            return None if token is None else self._ids[token]
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name.removesuffix("_id") not in _ROLES:
            object.__setattr__(self, name, value)
            return
        token = self._names.get(value) if name.endswith("_id") else value
        if value is not None and token not in self._ids:
            raise TokenizerError(f"{name}: there is no token {value!r} in the vocabulary")
        self._roles[name.removesuffix("_id")] = token

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Role -> token, of those that are set."""
        return {role: token for role, token in self._roles.items() if token is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """The tokens that have a role, each once."""
        return list(dict.fromkeys(self.special_tokens_map.values()))

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""
        return [self._ids[token] for token in self.all_special_tokens]

    def save_pretrained(self, save_directory: Path_) -> None:
        """Write a folder that `transformers.AutoTokenizer` and `Tokenizer.load` read."""
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **self.special_tokens_map}
        if self.model_max_length < ENDLESS:
            settings["model_max_length"] = self.model_max_length
        self._tokenizer.save(save_directory)
        write_whole(Path(save_directory) / "tokenizer_config.json", json.dumps(settings, indent=2).encode())


def _listed(ids: Ids) -> Any:
    """Arrays and tensors, also in a list, as lists of integers."""
    if hasattr(ids, "tolist"):
        return ids.tolist()
    return [_listed(each) for each in ids] if isinstance(ids, list | tuple) else ids
