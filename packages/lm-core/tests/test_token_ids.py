"""A token file that changes while it is read ends in a line, and never in a batch of something else."""

import contextlib
import hashlib
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.data.batches import LengthRule, RandomWindows, SequentialWindows, ShuffledWindows
from lm_core.data.token_ids import TokenIds
from lm_core.errors import UserError, exit_code_of

IDS = np.arange(10_000, dtype="<u2")
START = 128


def opened(path: Path, ids: Any = IDS, vocab_size: int = 10_000) -> TokenIds:
    path.write_bytes(bytes(START) + ids.tobytes())
    return TokenIds(path, ids.dtype, START, len(ids), vocab_size, hashlib.sha256(ids.tobytes()).hexdigest())


def overwritten(ids: TokenIds, content: bytes, at: int = START) -> None:
    """Written to in place, as by `cp` or an editor; the time moves on."""
    before = ids.path.stat().st_mtime_ns
    with ids.path.open("r+b") as file:
        file.seek(at)
        file.write(content)
    os.utime(ids.path, ns=(before + 1, before + 1))


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<i4", "<i8"])
def test_rows_are_what_an_array_gives(tmp_path: Path, dtype: str) -> None:
    array = IDS.astype(dtype)
    ids = opened(tmp_path / "x.npy", array)
    starts = np.array([0, 9_990, 17, 17])
    assert ids.rows(starts, 10).tolist() == array[starts[:, None] + np.arange(10)].tolist()
    assert ids.rows(starts[:0], 10).shape == (0, 10)
    makers: list[Callable[[Any], Any]] = [
        lambda tokens: SequentialWindows(tokens, 4, 16)[5],
        lambda tokens: ShuffledWindows(tokens, 4, 16, 3).batch(5),
        lambda tokens: RandomWindows(tokens, 4, LengthRule(16, 16), 3).batch(5),
    ]
    for make in makers:
        batch, same = make(ids), make(array)
        assert (batch.inputs == same.inputs).all()
        assert (batch.targets == same.targets).all()
        assert batch.inputs.dtype == np.int32


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.full(10_000, 65_535, "<u2").tobytes(), "is not what was written|beyond its vocabulary of 10,000"),
        (IDS[::-1].tobytes(), "is not what was written, its SHA-256 differs"),
        (b"\x07", "is not what was written, its SHA-256 differs"),
    ],
)
def test_a_file_that_is_overwritten_in_place_is_noticed_at_the_next_read(
    tmp_path: Path, content: bytes, said: str
) -> None:
    ids = opened(tmp_path / "x.npy")
    ids.rows(np.array([5]), 10)
    overwritten(ids, content)
    with pytest.raises(UserError, match=f"x.npy .*({said})"):
        ids.rows(np.array([9_000]), 10)


def test_an_id_beyond_the_vocabulary_is_refused_although_the_time_stands_still(tmp_path: Path) -> None:
    ids = opened(tmp_path / "x.npy")
    stamp = ids.path.stat()
    overwritten(ids, b"\xff\xff")
    os.utime(ids.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(UserError, match="holds id 65535, beyond its vocabulary of 10,000"):
        ids.rows(np.array([0, 5]), 10)


def test_a_file_that_was_only_touched_or_replaced_is_read_on(tmp_path: Path) -> None:
    ids = opened(tmp_path / "x.npy")
    os.utime(ids.path, ns=(5, 5))
    assert ids[3] == 3
    (tmp_path / "other").write_bytes(b"another file of the same name")
    (tmp_path / "other").replace(ids.path)
    assert ids[9_999] == 9_999


def test_a_file_that_is_cut_while_it_is_read_ends_the_process_with_a_line(tmp_path: Path) -> None:
    """In a process of its own, which a memory map would have ended by SIGBUS."""
    ids = opened(tmp_path / "x.npy")
    windows = ShuffledWindows(ids, 4, 16, 0)

    def read() -> None:
        os.truncate(ids.path, 50)
        for step in range(1, 50):
            windows.batch(step)

    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fork is what is wanted, threads or no threads
        child = os.fork()
    if not child:
        sys.stderr = os.fdopen(write_end, "w")
        os._exit(exit_code_of(read, "train"))
    os.close(write_end)
    with os.fdopen(read_end) as said:
        line = said.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 2
    assert line == f"train: error: token file {ids.path} was cut while it was being read: rebuild it\n"


@pytest.mark.parametrize("call", ["preadv", "fstat", "pread"])
def test_an_error_of_the_disk_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    ids = opened(tmp_path / "x.npy")

    def fails(*_: object) -> int:
        raise OSError(5, "Input/output error")

    reads: dict[str, Callable[[], object]] = {
        "preadv": lambda: ids[0], "fstat": lambda: ids[0], "pread": lambda: ids.bytes_at(0, 1),
    }  # fmt: skip
    said = r"cannot read token file .*x\.npy: Input/output error"

    def failing_read() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fails)
            reads[call]()

    with pytest.raises(UserError, match=said):
        failing_read()


def descriptors_of(path: Path) -> int:
    """Return how many descriptors of this process are of a file; other threads may open and close theirs meanwhile."""
    file, found = path.stat(), 0
    for entry in [*Path("/dev/fd").iterdir()]:
        with contextlib.suppress(OSError):  # that of the listing has been closed
            found += os.path.samestat(os.fstat(int(entry.name)), file)
    return found


def test_a_pipe_in_its_place_is_not_waited_for_and_descriptors_are_given_back(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(UserError, match="not a regular file"):
        TokenIds(tmp_path / "x.npy", np.dtype("<u2"), 0, 1, 1)
    opened(tmp_path / "y.npy")
    ids = opened(tmp_path / "y.npy")
    assert descriptors_of(ids.path) == 1
    del ids
    assert descriptors_of(tmp_path / "y.npy") == 0
