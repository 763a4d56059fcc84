"""Token files: ids, and a sidecar that says what they are.

    X.npy  what numpy.save writes for a 1-D array of uint16 or uint32      X.npy.json  its sidecar

The writer (`lm_tokenizer.token_file`) puts the SHA-256 of the ids into the sidecar and one of the sidecar itself, so a
flipped bit, a cut, or a data file and a sidecar of two different times are found when the file is opened. What befalls
the file later is found where it is read (`lm_core.data.token_ids`).
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from lm_core.config import Config
from lm_core.data.token_ids import TokenIds
from lm_core.disk.untrusted import may_pass, read_regular
from lm_core.errors import UnreadableError, UserError

HEADER_BYTES = 128
_LONGEST_SIDECAR = 1 << 16


class TokenMetadata(Config):
    """Metadata in the sidecar of a token file."""

    format: Literal["token file 1"]
    """Version of the layout."""
    dtype: Literal["uint16", "uint32"]
    """Type of an id on disk, little-endian."""
    tokens: int = Field(ge=0)
    """Number of ids."""
    documents: int = Field(ge=0)
    """Number of documents that end in the file."""
    bytes: int = Field(ge=0)
    """UTF-8 bytes of the text that was encoded, so that bits per byte is exact; ends of text add none."""
    vocab_size: int = Field(gt=0)
    """Every id is below it."""
    eos_id: int | None
    """The id that ends a document."""
    fingerprint: str
    """Fingerprint of the tokenizer that produced the ids."""
    source: str
    """Source of the ids, as the writer describes it."""
    sha256: str
    """SHA-256 of the ids in the file, without its header."""
    pair: str = ""
    """The same word in the files that were made together, such as train.npy and validation.npy."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.vocab_size > 1 << 8 * np.dtype(self.dtype).itemsize:
            raise ValueError(f"{self.dtype} does not hold the ids of a vocabulary of {self.vocab_size:,}")
        if self.eos_id is not None and not 0 <= self.eos_id < self.vocab_size:
            raise ValueError(f"eos_id {self.eos_id} is outside the vocabulary of {self.vocab_size:,}")
        return self


@dataclass(frozen=True)
class TokenFile:
    """An open token file."""

    path: Path
    tokens: TokenIds
    """The ids, metadata.tokens of them, read from disk as they are used."""
    metadata: TokenMetadata

    @classmethod
    def open(cls, path: str | Path, fingerprint: str | None = None, *, verify: bool = True) -> "TokenFile":
        """Open a token file.

        Args:
            path: of the `.npy`; its sidecar stands beside it.
            fingerprint: of the tokenizer whose ids are expected; any when not given.
            verify: read all of it and compare the SHA-256 and every id (about a second for a gigabyte).

        Raises:
            UserError: for a file that is missing, damaged, or made by another tokenizer.
        """
        path = Path(path)
        metadata = read_sidecar(path)
        if fingerprint is not None and metadata.fingerprint != fingerprint:
            raise UserError(
                f"token file {path} was made with another tokenizer ({_short(metadata.fingerprint)}) than the one in"
                f" use ({_short(fingerprint)}): rebuild it, or use the tokenizer it was made with"
            )
        dtype = np.dtype(metadata.dtype).newbyteorder("<")
        tokens = TokenIds(path, dtype, HEADER_BYTES, metadata.tokens, metadata.vocab_size, metadata.sha256)
        _check_layout(path, tokens)
        if verify:
            tokens.verify()
        return cls(path, tokens, metadata)

    def __len__(self) -> int:
        return len(self.tokens)


class Described(Protocol):
    """A token file, or a stream of shards."""

    @property
    def path(self) -> Path:
        """Its place."""

    @property
    def metadata(self) -> TokenMetadata:
        """Metadata of its ids."""


def check_pair(train: Described, validation: Described) -> None:
    """Two files in one folder must have been made together, where both say by what tokenizer, and one with what.

    Otherwise the folder may be one in which replacing a pair was interrupted, and validation text be training text.

    Raises:
        UserError: when they were not.
    """
    same_folder = _folder_of(train.path) == _folder_of(validation.path)
    stated = train.metadata.fingerprint and validation.metadata.fingerprint
    if same_folder and stated and train.metadata.pair != validation.metadata.pair:
        raise UserError(
            f"token files {train.path} and {validation.path} were not made together, so validation text may be in the"
            " training text: rebuild them together (to finish an interrupted make-data, run it again), or"
            " move one to another folder if it is meant"
        )


def _folder_of(path: Path) -> Path:
    """The folder that a token file is in, or that a stream is."""
    return path.resolve() if path.is_dir() else path.resolve().parent


def sidecar_of(path: str | Path) -> Path:
    """Path of the sidecar of a token file: `X.npy.json` for `X.npy`."""
    return Path(f"{path}.json")


def read_sidecar(path: str | Path) -> TokenMetadata:
    """Read the sidecar of the token file at `path`.

    Raises:
        UserError: when it is missing or damaged.
    """
    sidecar = sidecar_of(path)
    if not Path(path).is_file():
        raise UserError(f"there is no token file {path}")
    try:
        data = read_regular(sidecar, _LONGEST_SIDECAR)
    except FileNotFoundError:
        raise UserError(
            f"token file {path} has no sidecar {sidecar.name}: it was moved without it, or never finished; rebuild it"
        ) from None
    except OSError as error:
        kind = UnreadableError if may_pass(error) else UserError
        raise kind(f"cannot read {sidecar}: {error.strerror}") from None
    try:
        said = json.loads(data)
        digest = said.pop("sidecar_sha256")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{sidecar} is not the sidecar of a token file: rebuild the token file") from None
    if digest != hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest():
        raise UserError(f"{sidecar} is damaged, its SHA-256 differs: rebuild the token file")
    return TokenMetadata.parse(said, str(sidecar))


def npy_header(dtype: np.dtype[Any], count: int) -> bytes:
    """The 128 bytes with which `numpy.save` begins a 1-D array of `count` numbers (npy format 1.0)."""
    said = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({count},), }}"
    magic = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    return magic + said.ljust(HEADER_BYTES - 11).encode() + b"\n"


def _check_layout(path: Path, tokens: TokenIds) -> None:
    """The size and the header must be those of the ids; there is no other valid file, so nothing is parsed."""
    count, dtype = len(tokens), tokens.dtype
    size, expected = tokens.size(), HEADER_BYTES + count * dtype.itemsize
    if size != expected:
        how = "it is cut" if size < expected else "it is another file than its sidecar's"
        raise UserError(f"token file {path} has {size:,} bytes, and {count:,} ids take {expected:,}: {how}; rebuild it")
    if tokens.bytes_at(0, HEADER_BYTES) != npy_header(dtype, count):
        raise UserError(
            f"token file {path} does not have the numpy header of {count:,} ids of {dtype.name}: rebuild it"
        )


def _short(fingerprint: str) -> str:
    return fingerprint[:12] or "none"
