"""What lm_tokenizer writes, lm_core reads; and what happened to it in between is noticed."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

from lm_core.data.token_file import TokenFile
from lm_core.errors import UserError
from lm_tokenizer.token_file import TokenFileWriter


def write(path: Path, ids: list[int], text_bytes: int = 0) -> Path:
    with TokenFileWriter(path, "uint16", vocab_size=300, fingerprint="f", eos_id=299) as file:
        file.write(np.array(ids, np.uint16), text_bytes=text_bytes, documents=1)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = TokenFile.open(write(tmp_path / "x.npy", [5, 299, 0], 17), "f")
    assert file.tokens[:].tolist() == [5, 299, 0]
    metadata = file.metadata
    assert (metadata.tokens, metadata.bytes, metadata.documents, metadata.eos_id, metadata.vocab_size) == (
        3,
        17,
        1,
        299,
        300,
    )


@pytest.mark.parametrize("trials", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["x.npy", "x.npy.json"])
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path, name: str, trials: int) -> None:
    path = write(tmp_path / "x.npy", [7] * 300)
    good, target = TokenFile.open(path), tmp_path / name
    metadata, data = good.metadata, target.read_bytes()
    draw = random.Random(0)
    for _ in range(trials):
        position, bit = draw.randrange(len(data)), draw.randrange(8)
        damaged = bytearray(data)
        damaged[position] ^= 1 << bit
        target.write_bytes(damaged)
        try:
            read = TokenFile.open(path)
        except UserError:
            continue
        assert name == "x.npy.json", f"bit {bit} of byte {position}"  # white space between the keys
        assert read.metadata == metadata
        assert read.tokens[:].tolist() == [7] * 300


@pytest.mark.parametrize("name", ["x.npy", "x.npy.json"])
def test_a_cut_is_noticed(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "x.npy", [7] * 50)
    data = (tmp_path / name).read_bytes()
    for size in range(len(data) - 1):
        (tmp_path / name).write_bytes(data[:size])
        with pytest.raises(UserError):
            TokenFile.open(path)


def test_files_of_two_times_are_told_apart_although_their_sizes_are_equal(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npy", [1, 2, 3])
    old = path.read_bytes()
    write(path, [3, 2, 1])
    path.write_bytes(old)
    with pytest.raises(UserError, match="SHA-256"):
        TokenFile.open(path)


def test_a_crash_between_the_renames_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.npy", [1, 2, 3])
    child = os.fork()
    if not child:
        replace, left = Path.replace, [2]

        def crash(self: Path, target: Path) -> Path:
            left[0] -= 1
            return replace(self, target) if left[0] else os._exit(0)

        monkeypatch.setattr(Path, "replace", crash)
        write(path, [4, 5, 6])
    os.waitpid(child, 0)
    scratch, *others = sorted(p.name for p in tmp_path.iterdir())
    assert scratch.startswith(".x.npy.")
    assert others == ["x.npy", "x.npy.json"]
    with pytest.raises(UserError, match="SHA-256"):
        TokenFile.open(path)
    write(path, [4, 5, 6])
    assert sorted(p.name for p in tmp_path.iterdir()) == others
    assert TokenFile.open(path).tokens[:].tolist() == [4, 5, 6]
