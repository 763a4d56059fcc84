"""Token files of others, which have ids and nothing that says of what tokenizer: nanoGPT's `.bin`, numpy's `.npy`.

    X.bin   uint16, little-endian, from the first byte on      X.npy   one axis of integers, as numpy.save writes it

What a sidecar would say, the caller must: every id is checked against the vocabulary; that they are the tokenizer's
own is the caller's word.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from lm_core.data.token_file import TokenFile, TokenMetadata, sidecar_of
from lm_core.data.token_ids import TokenIds
from lm_core.errors import UserError

_LONGEST_HEADER = 1 << 14
_LLM_C = (20240520, 20240801)
"""Magic number at the start of llm.c's files: a header of 256 int32, then ids."""


def is_bare(path: str | Path) -> bool:
    """Whether this is such a file, by its name and by its having no sidecar."""
    path = Path(path)
    return path.suffix in (".bin", ".npy") and path.is_file() and not sidecar_of(path).exists()


def open_bare(path: str | Path, vocab_size: int, eos_id: int | None = None) -> TokenFile:
    """Open such a file, and read all of it once (about a second for a gigabyte).

    Args:
        path: of the file.
        vocab_size: of the tokenizer that it was made with; every id must be below it.
        eos_id: of that tokenizer.

    Raises:
        UserError: when it cannot be read, is of another layout, or holds an id beyond the vocabulary.
    """
    path = Path(path)
    whole = TokenIds(path, np.dtype(np.uint8), 0, 0, 256)
    start, dtype, count = (_npy if path.suffix == ".npy" else _bin)(path, whole)
    tokens = TokenIds(path, dtype, start, count, vocab_size)
    tokens.verify()
    metadata = TokenMetadata(
        format="token file 1",
        dtype="uint16" if vocab_size <= 1 << 16 else "uint32",
        tokens=count,
        documents=0,
        bytes=0,
        vocab_size=vocab_size,
        eos_id=eos_id,
        fingerprint="",
        source="",
        sha256=tokens.sha256,
    )
    return TokenFile(path, tokens, metadata)


def _bin(path: Path, file: TokenIds) -> tuple[int, np.dtype[Any], int]:
    """Offset of the ids, their type, their number."""
    size, start = file.size(), file.bytes_at(0, 4)
    if int.from_bytes(start, "little") in _LLM_C:
        raise UserError(
            f"token file {path} has the header of llm.c's files, 1,024 bytes: cut it off (tail -c +1025) if its ids are"
            " uint16, or convert it to .npy"
        )
    if size % 2:
        raise UserError(
            f"token file {path} has {size:,} bytes, an odd number: it is cut, or not uint16 without a header"
        )
    return 0, np.dtype("<u2"), size // 2


def _npy(path: Path, file: TokenIds) -> tuple[int, np.dtype[Any], int]:
    header = io.BytesIO(file.bytes_at(0, _LONGEST_HEADER))
    try:
        version = np.lib.format.read_magic(header)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(header)  # literals alone, in a header of bounded length
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(f"token file {path} does not start with a numpy header: {str(error)[:80]}") from None
    if dtype.kind not in "iu" or dtype.itemsize > 8 or len(shape) != 1:
        raise UserError(
            f"token file {path} holds {dtype} of shape {shape}: expected a one-dimensional array of integers"
        )
    expected = header.tell() + shape[0] * dtype.itemsize
    if file.size() != expected:
        raise UserError(f"token file {path} has {file.size():,} bytes, and its header says {expected:,}: it is cut")
    return header.tell(), dtype, shape[0]
