"""Malicious token files: each kind writes `tokens.npy` and its sidecar into a folder."""

import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lm_bench.cases import random_walk
from lm_bench.faults.forgeries import Draw, Evil
from lm_bench.faults.harm import prepare
from lm_bench.faults.trial import VOCABULARY, Trial
from lm_core.data.token_file import TokenFile, npy_header, sidecar_of
from lm_core.errors import exit_code_of

NAME = "tokens.npy"


def main(trial: Trial) -> int:
    """Open the token file of a folder."""
    prepare(trial)
    return exit_code_of(lambda: _open(Path(trial.folder) / NAME), "tokens")


def _open(path: Path) -> None:
    TokenFile.open(path)


def objects(folder: Path, draw: Draw, marker: Path) -> None:
    """An npy of objects, or a bare pickle, which numpy.load would run if it were let."""
    file = io.BytesIO()
    np.save(file, np.array([Evil(marker)], dtype=object), allow_pickle=True)
    content = file.getvalue() if draw.random() < 0.5 else pickle.dumps(Evil(marker))
    said = _sidecar(tokens=(len(content) - 128) // 2, sha256=hashlib.sha256(content[128:]).hexdigest())
    _write(folder, content, said)


def lying_sidecar(folder: Path, draw: Draw, marker: Path) -> None:
    """A sidecar whose own hash is right, and which says what is not so."""
    lies: list[dict[str, Any]] = [
        {"tokens": 1 << 62}, {"tokens": -1}, {"tokens": 0}, {"tokens": 1 << 200}, {"tokens": True}, {"tokens": "400"},
        {"dtype": "object"}, {"dtype": "float64"}, {"dtype": "uint32"}, {"vocab_size": 3}, {"vocab_size": 1 << 70},
        {"eos_id": -5}, {"bytes": -1}, {"format": "token file 2"}, {"sha256": "0" * 64}, {"more": "../../x"},
    ]  # fmt: skip
    _write(folder, _good(), _sidecar(**lies[int(draw.integers(len(lies)))]))


def broken_sidecar(folder: Path, draw: Draw, marker: Path) -> None:
    """JSON that is deep, huge, no JSON, or no table."""
    depth = int(draw.integers(1_000, 60_000))
    texts = [
        b"[" * depth, b'{"a":' * (depth // 5), b"9" * depth, b"NaN", b"Infinity", b"[]", b"null", b"{}", b"",
        b"\xff\xfe", b'{"tokens": NaN, "sidecar_sha256": "0"}', b'{"sidecar_sha256": 1, "sidecar_sha256": []}',
        b" " * (1 << 24),
    ]  # fmt: skip
    _write(folder, _good(), texts[int(draw.integers(len(texts)))])


def another_header(folder: Path, draw: Draw, marker: Path) -> None:
    """Data that does not begin as it should, or is not as long."""
    good = _good()
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': ({1 << int(draw.integers(4, 60))},), }}"
    starts = [b"\x93NUMPY\x01\x00v\x00" + header.ljust(117).encode() + b"\n", b"PK\x03\x04" + good[4:128], bytes(128)]
    cut = int(draw.integers(len(good)))
    content = [*(start + good[128:] for start in starts), good[:cut], good + b"\0"][int(draw.integers(5))]
    _write(folder, content, _sidecar())


def not_files(folder: Path, draw: Draw, marker: Path) -> None:
    """A pipe, a folder, a link to itself or to a device, or a terabyte of nothing, as the data or as the sidecar."""
    _write(folder, _good(), _sidecar())
    path = [folder / NAME, sidecar_of(folder / NAME)][int(draw.integers(2))]
    path.unlink()
    match int(draw.integers(5)):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to(path)
        case 3:
            path.symlink_to("/dev/zero")
        case _:
            with path.open("wb") as file:
                file.truncate(1 << 40)


KINDS: tuple[Callable[[Path, Draw, Path], None], ...] = (
    objects,
    lying_sidecar,
    broken_sidecar,
    another_header,
    not_files,
)


def _good() -> bytes:
    ids = random_walk(VOCABULARY, 400).astype("<u2")
    return npy_header(ids.dtype, len(ids)) + ids.tobytes()


def _sidecar(**lies: Any) -> bytes:
    said: dict[str, Any] = {
        "format": "token file 1",
        "dtype": "uint16",
        "tokens": 400,
        "documents": 1,
        "bytes": 400,
        "vocab_size": VOCABULARY,
        "eos_id": None,
        "fingerprint": "none",
        "source": "",
        "sha256": hashlib.sha256(_good()[128:]).hexdigest(),
        **lies,
    }
    own = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return json.dumps({**said, "sidecar_sha256": own}).encode()


def _write(folder: Path, data: bytes, sidecar: bytes) -> None:
    (folder / NAME).write_bytes(data)
    sidecar_of(folder / NAME).write_bytes(sidecar)
