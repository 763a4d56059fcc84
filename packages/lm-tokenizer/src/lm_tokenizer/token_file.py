"""Token files: ids on disk as a plain `.npy`, with a sidecar that says what they are.

    ids --write--> a scratch file beside --finish--> flushed --commit--> X.npy.json (sidecar), then X.npy

`X.npy` is what `numpy.save` writes for a 1-D array of uint16 or uint32, so `numpy.load(..., mmap_mode="r")` reads it.
`X.npy.json` holds the number of tokens, documents and bytes of text, the vocabulary, and the SHA-256 of the ids.

The pair is never mismatched unnoticed. Both files are written beside and flushed, then the sidecar is renamed, then the
data. A crash before the first rename changes nothing; one between the two leaves a sidecar without data, or beside data
of an earlier time, whose number of tokens or SHA-256 is not what the sidecar says. Scratch files have names of their
own (`lm_tokenizer.formats.files.open_scratch`), so nothing of anybody's is overwritten. Reader:
`lm_core.data.token_file`.
"""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.files import flush_folder, open_scratch

FORMAT = "token file 1"
HEADER_BYTES = 128
_WRITE_BUFFER = 1 << 20


def npy_header(dtype: np.dtype[Any], count: int) -> bytes:
    """The 128 bytes with which `numpy.save` begins a 1-D array of `count` numbers (npy format 1.0)."""
    said = f"{{'descr': '{dtype.newbyteorder('<').str}', 'fortran_order': False, 'shape': ({count},), }}"
    magic = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    return magic + said.ljust(HEADER_BYTES - 11).encode() + b"\n"


def sidecar_of(path: Path) -> Path:
    """Path of the sidecar of a token file: `X.npy.json` for `X.npy`."""
    return path.with_name(path.name + ".json")


class TokenFileWriter:
    """Streams ids into a token file, in memory that does not grow with it.

        with TokenFileWriter("train.npy", tokenizer.dtype, vocab_size=..., fingerprint=...) as file:
            file.write(ids, text_bytes=len(data), documents=1)

    Leaving the block commits; leaving it by an exception discards, and what was there before still is.

    Args:
        path: of the `.npy`; its folder must exist.
        dtype: uint16 or uint32, wide enough for `vocab_size`.
        vocab_size: every id is below it.
        fingerprint: of the tokenizer that gives the ids.
        eos_id: the id that ends a document, where there is one.
        source: what the ids were made from, in the caller's words (make-data: a hash of config and inputs).
        pair: the same word in each of several files that belong together, so that a mixture is noticed.

    Raises:
        TokenizerError: when the file cannot be written (a full disk), or an id is outside the vocabulary.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        dtype: DTypeLike,
        *,
        vocab_size: int,
        fingerprint: str,
        eos_id: int | None = None,
        source: str = "",
        pair: str = "",
    ) -> None:
        self.path, self.dtype, self.vocab_size = Path(path), np.dtype(dtype).newbyteorder("<"), vocab_size
        if self.dtype.str not in ("<u2", "<u4") or vocab_size > 1 << 8 * self.dtype.itemsize:
            raise TokenizerError(f"a token file of {vocab_size:,} ids is uint16 or uint32 as they fit, not {dtype}")
        self.fingerprint, self.eos_id, self.source, self.pair = fingerprint, eos_id, source, pair
        self.tokens = self.bytes = self.documents = 0
        self._digest = hashlib.sha256()
        self._scratch: dict[Path, Path] = {}
        """Final path -> where it is written until then."""
        self._open: list[BinaryIO] = []
        self._finished = False
        try:
            self._file = self._begin(self.path, _WRITE_BUFFER)
            self._file.write(bytes(HEADER_BYTES))  # the count is known at the end
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.commit()
        else:
            self.discard()

    def write(self, ids: NDArray[Any], text_bytes: int = 0, documents: int = 0) -> None:
        """Append ids, which stand for `text_bytes` bytes of UTF-8 and in which `documents` documents end."""
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise TokenizerError(f"{self.path}: id {wrong} is outside the vocabulary of {self.vocab_size:,}")
        data = np.ascontiguousarray(ids, self.dtype).view(np.uint8).data
        try:
            self._file.write(data)
        except OSError as error:
            raise self._failed(error) from error
        self._digest.update(data)
        self.tokens += ids.size
        self.bytes += text_bytes
        self.documents += documents

    def finish(self) -> None:
        """Flush the pair to disk beside its final names, for `commit` to be quick; when that fails, discard.

        A caller of several writers finishes all of them before the first commits.
        """
        if not self._finished:
            self._or_discard(self._finish)
            self._finished = True

    def commit(self) -> None:
        """Give the pair its final names, flushed to disk; when that fails, discard."""
        self.finish()
        self._or_discard(self._commit)

    def _finish(self) -> None:
        self._file.seek(0)
        self._file.write(npy_header(self.dtype, self.tokens))
        self._begin(sidecar_of(self.path)).write(self._sidecar())
        for file in self._open:
            file.flush()
            os.fsync(file.fileno())

    def _commit(self) -> None:
        sidecar = sidecar_of(self.path)
        self._scratch[sidecar].replace(sidecar)
        try:
            self._scratch[self.path].replace(self.path)
        except OSError:
            sidecar.unlink(missing_ok=True)
            raise
        self._scratch.clear()
        flush_folder(self.path.parent)
        self._close()

    def discard(self) -> None:
        """Remove what was written."""
        for scratch in self._scratch.values():
            scratch.unlink(missing_ok=True)
        self._close()

    def _begin(self, path: Path, buffering: int = -1) -> BinaryIO:
        self._scratch[path], file = open_scratch(path, buffering)
        self._open.append(file)
        return file

    def _close(self) -> None:
        for file in self._open:
            with suppress(OSError):  # what is still buffered cannot be written either
                file.close()

    def _or_discard(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            raise self._failed(error) from error
        except BaseException:
            self.discard()
            raise

    def _sidecar(self) -> bytes:
        metadata: dict[str, Any] = {
            "format": FORMAT,
            "dtype": self.dtype.name,
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,
            "vocab_size": self.vocab_size,
            "eos_id": self.eos_id,
            "fingerprint": self.fingerprint,
            "source": self.source,
            **({"pair": self.pair} if self.pair else {}),
            "sha256": self._digest.hexdigest(),
        }
        own = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
        return (json.dumps({**metadata, "sidecar_sha256": own}, indent=1) + "\n").encode()

    def _failed(self, error: OSError) -> TokenizerError:
        self.discard()
        return TokenizerError(f"cannot write {self.path}: {error.strerror or error}")
