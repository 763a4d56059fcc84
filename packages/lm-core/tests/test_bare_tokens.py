"""Token files of nanoGPT and of numpy: the ids, and one line for what they are not."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.data.bare_tokens import is_bare, open_bare
from lm_core.data.token_file import TokenFile, check_pair
from lm_core.errors import UserError

IDS = np.arange(3000) % 700


def saved(path: Path, ids: Any = IDS) -> Path:
    if path.suffix == ".bin":
        np.asarray(ids, "<u2").tofile(path)
    else:
        np.save(path, ids, allow_pickle=False)
    return path


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<u4", "<i4", "<i8", "u1"])
def test_numpy_s_files_of_integers_are_read(tmp_path: Path, dtype: str) -> None:
    ids = (IDS % 250).astype(dtype)
    file = open_bare(saved(tmp_path / "x.npy", ids), 700, 699)
    assert file.tokens[:].tolist() == ids.tolist()
    assert (len(file), file.metadata.vocab_size, file.metadata.eos_id, file.metadata.fingerprint) == (
        3000,
        700,
        699,
        "",
    )


def test_nanogpt_s_files_are_read_and_the_same_ids_have_the_same_digest(tmp_path: Path) -> None:
    file = open_bare(saved(tmp_path / "train.bin"), 700)
    assert file.tokens[:].tolist() == IDS.tolist()
    same = open_bare(saved(tmp_path / "train.npy", IDS.astype("<u2")), 700)
    assert file.metadata.sha256 == same.metadata.sha256
    check_pair(file, same)


def test_a_file_with_a_sidecar_is_not_bare(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npy")
    assert is_bare(path)
    assert is_bare(saved(tmp_path / "x.bin"))
    assert not is_bare(tmp_path / "none.bin")
    (tmp_path / "x.npy.json").write_text("{}")
    assert not is_bare(path)
    with pytest.raises(UserError):
        TokenFile.open(path)


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps([1, 2]))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.bin", np.array([700], "<u2").tobytes(), "holds id 700 at position 0, beyond its vocabulary of 700"),
        ("x.bin", b"abc", "3 bytes, an odd number"),
        ("x.bin", np.array([20240520, 1], "<i4").tobytes(), "has the header of llm.c's files"),
        ("x.npy", b"abc", "does not start with a numpy header"),
        ("x.npy", pickle.dumps([1, 2]), "does not start with a numpy header"),
        ("x.npy", np.array([1.5]), "holds float64 of shape (1,): expected a one-dim"),
        ("x.npy", np.array([[1, 2]]), "of shape (1, 2): expected a one-dimensional array"),
        ("x.npy", np.array([1, -1]), "holds id -1 at position 1"),
        ("x.npy", np.array([1, 1 << 40]), "beyond its vocabulary of 700"),
    ],
    ids=str,
)
def test_what_is_not_such_a_file_is_one_line(tmp_path: Path, name: str, content: Any, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else saved(path, content)
    with pytest.raises(UserError) as caught:
        open_bare(path, 700)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_cut_file_is_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npy")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="its header says 24,128: it is cut"):
        open_bare(path, 700)
