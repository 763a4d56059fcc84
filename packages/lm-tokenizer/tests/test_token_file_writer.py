"""A token file is what numpy would have saved, with a sidecar; or it is not there."""

import hashlib
import io
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.token_file import TokenFileWriter


def writer(path: Path, dtype: str = "uint16", vocab_size: int = 50257, **more: object) -> TokenFileWriter:
    return TokenFileWriter(path, dtype, vocab_size=vocab_size, fingerprint="f", **more)  # type: ignore[arg-type]


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("parts", [[], [0], [1], [3, 0, 1000], [100_000]], ids=str)
def test_the_file_is_what_numpy_saves_to_the_byte(tmp_path: Path, dtype: str, parts: list[int]) -> None:
    arrays = [np.arange(size, dtype=dtype) % 50257 for size in parts]
    with writer(tmp_path / "x.npy", dtype) as file:
        for array in arrays:
            file.write(array)
    saved = io.BytesIO()
    np.save(saved, np.concatenate([np.empty(0, dtype), *arrays]))
    assert (tmp_path / "x.npy").read_bytes() == saved.getvalue()
    assert left_in(tmp_path) == ["x.npy", "x.npy.json"]


def test_the_sidecar_says_what_is_in_the_file(tmp_path: Path) -> None:
    with writer(tmp_path / "x.npy", eos_id=50256, source="here") as file:
        file.write(np.array([1, 2, 50256]), text_bytes=7, documents=1)
        file.write(np.array([3]), text_bytes=5)
    said = json.loads((tmp_path / "x.npy.json").read_text())
    assert said.pop("sidecar_sha256") == hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    assert said == {
        "format": "token file 1",
        "dtype": "uint16",
        "tokens": 4,
        "documents": 1,
        "bytes": 12,
        "vocab_size": 50257,
        "eos_id": 50256,
        "fingerprint": "f",
        "source": "here",
        "sha256": hashlib.sha256(np.array([1, 2, 50256, 3], "<u2").tobytes()).hexdigest(),
    }


@pytest.mark.parametrize("ids", [[50257], [-1], [0, 70_000]])
def test_an_id_outside_the_vocabulary_is_refused_and_nothing_is_left(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(TokenizerError, match=f"id {ids[-1]} is outside"), writer(tmp_path / "x.npy") as file:
        file.write(np.array(ids))
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(("dtype", "vocab_size"), [("uint16", 65537), ("int32", 10), ("float32", 10)])
def test_a_type_that_does_not_hold_the_ids_is_refused(tmp_path: Path, dtype: str, vocab_size: int) -> None:
    with pytest.raises(TokenizerError, match="uint16 or uint32"):
        writer(tmp_path / "x.npy", dtype, vocab_size)
    assert left_in(tmp_path) == []


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"cannot write .*x\.npy: No such file or directory"):
        writer(tmp_path / "none" / "x.npy")


def test_an_exception_in_the_block_leaves_what_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with writer(tmp_path / "x.npy") as file:
        file.write(np.array([1]))
    before = (tmp_path / "x.npy").read_bytes()
    with pytest.raises(ZeroDivisionError), writer(tmp_path / "x.npy") as file:
        file.write(np.array([2 // len(left_in(tmp_path / "empty"))]))
    assert (tmp_path / "x.npy").read_bytes() == before
    assert left_in(tmp_path) == ["empty", "x.npy", "x.npy.json"]


@pytest.mark.parametrize("size", [0, 64, 200, 3000, 1_500_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    def fill() -> None:
        with room_for(size), writer(tmp_path / "x.npy") as file:
            for _ in range(20):
                file.write(np.zeros(50_000, np.uint16))

    with pytest.raises(TokenizerError, match=r"cannot write .*x\.npy: ") as caught:
        fill()
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_commit_that_fails_at_any_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, nth: int
) -> None:
    module = __import__(call.split(".")[0])
    owner = module.Path if call.startswith("pathlib") else module
    original, left = getattr(owner, call.split(".")[-1]), [nth]

    def fails(*arguments: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        return original(*arguments)

    monkeypatch.setattr(call, fails)
    with pytest.raises(TokenizerError, match="No space left on device"), writer(tmp_path / "x.npy") as file:
        file.write(np.array([1]))
    assert left_in(tmp_path) == []
