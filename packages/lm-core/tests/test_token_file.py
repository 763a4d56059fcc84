"""A token file is opened whole, or it is said in one line why not."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.data.token_file import TokenFile, check_pair
from lm_core.errors import UnreadableError, UserError

IDS = np.arange(1000, dtype=np.uint16)


def write(path: Path, ids: Any = IDS, **changes: object) -> Path:
    """A token file, by other means than the writer's."""
    np.save(path, ids)
    metadata = {
        "format": "token file 1",
        "dtype": ids.dtype.name,
        "tokens": len(ids),
        "documents": 1,
        "bytes": 3000,
        "vocab_size": 1000,
        "eos_id": 999,
        "fingerprint": "the-tokenizer",
        "source": "",
        "sha256": hashlib.sha256(ids.tobytes()).hexdigest(),
        **changes,
    }
    metadata = {key: value for key, value in metadata.items() if value != "absent"}
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
    path.with_name(path.name + ".json").write_text(json.dumps({**metadata, "sidecar_sha256": digest}, indent=2))
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        TokenFile.open(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_file_is_read_as_an_array_would_be(tmp_path: Path, dtype: str, count: int) -> None:
    file = TokenFile.open(write(tmp_path / "x.npy", IDS[:count].astype(dtype)), "the-tokenizer")
    assert len(file) == count
    assert file.tokens.dtype == dtype
    for key in (slice(None), slice(3, 7), slice(-2, None), slice(None, None, -1), slice(2, 900, 7), slice(5, 5)):
        assert file.tokens[key].tolist() == list(range(count))[key]
    assert [file.tokens[i] for i in range(-min(count, 3), min(count, 3))] == [*range(count)][-3:] + [*range(count)][:3]
    with pytest.raises(IndexError):
        file.tokens[count]
    assert (file.metadata.bytes, file.metadata.documents, file.metadata.eos_id) == (3000, 1, 999)


def test_another_tokenizer_is_refused_by_name_and_any_is_taken_when_none_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npy")
    assert "another tokenizer (the-tokenize) than the one in use (mine)" in refusal(path, fingerprint="mine")
    assert len(TokenFile.open(path)) == 1000


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path, sidecar: path.unlink(), "there is no token file"),
        (lambda path, sidecar: (path.unlink(), path.mkdir()), "there is no token file"),
        (lambda path, sidecar: sidecar.unlink(), "has no sidecar"),
        (lambda path, sidecar: sidecar.write_text(""), "is not the sidecar"),
        (lambda path, sidecar: sidecar.write_text("[1]"), "is not the sidecar"),
        (lambda path, sidecar: sidecar.write_text("{}"), "is not the sidecar"),
        (lambda path, sidecar: sidecar.write_bytes(b"\xff\xfe"), "is not the sidecar"),
        (lambda path, sidecar: sidecar.write_text("[" * 60_000), "is not the sidecar"),
        (lambda path, sidecar: sidecar.write_text(" " * 10_000_000), "it has more than 65,536 bytes"),
        (lambda path, sidecar: (sidecar.unlink(), os.mkfifo(sidecar)), "not a regular file"),
        (lambda path, sidecar: sidecar.write_text(sidecar.read_text().replace("3000", "3001")), "damaged"),
        (lambda path, sidecar: path.write_bytes(path.read_bytes()[:-1]), "it is cut"),
        (lambda path, sidecar: path.write_bytes(b""), "it is cut"),
        (lambda path, sidecar: path.write_bytes(path.read_bytes() + b"\0"), "another file than its sidecar's"),
        (
            lambda path, sidecar: np.save(path, IDS.astype("int16")),
            "does not have the numpy header of 1,000 ids of uint16",
        ),
        (
            lambda path, sidecar: np.save(path, IDS.astype(">u2")),
            "does not have the numpy header of 1,000 ids of uint16",
        ),
        (
            lambda path, sidecar: np.save(path, IDS.reshape(10, 100)),
            "does not have the numpy header of 1,000 ids of uint16",
        ),
        (lambda path, sidecar: np.save(path, IDS[::-1]), "its SHA-256 differs"),
    ],
)
def test_damage_is_one_line_that_names_the_file(
    tmp_path: Path, damage: Callable[[Path, Path], object], said: str
) -> None:
    path = write(tmp_path / "x.npy")
    damage(path, tmp_path / "x.npy.json")
    assert said in refusal(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "int16"}, "dtype: Input should be 'uint16' or 'uint32'"),
        ({"dtype": "uint32"}, "has 2,128 bytes, and 1,000 ids take 4,128: it is cut"),
        ({"tokens": -1}, "tokens: Input should be greater than or equal to 0"),
        ({"tokens": "1000"}, "tokens: Input should be a valid integer"),
        ({"tokens": True}, "tokens: Input should be a valid integer"),
        ({"documents": "absent"}, "documents: Field required"),
        ({"vocab_size": 70_000}, "uint16 does not hold the ids of a vocabulary of 70,000"),
        ({"eos_id": 1000}, "eos_id 1000 is outside the vocabulary of 1,000"),
        ({"format": "token file 2"}, "format: Input should be 'token file 1'"),
        ({"tokenss": 3}, "unknown key 'tokenss'; did you mean 'tokens'?"),
        ({"vocab_size": 900, "eos_id": None}, "holds id 900 at position 900, beyond its vocabulary of 900"),
        ({"sha256": "0"}, "its SHA-256 differs"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_one_line(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    assert said in refusal(write(tmp_path / "x.npy", **changes))


def test_without_verification_a_file_of_the_right_shape_is_taken_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npy", sha256="0")
    assert len(TokenFile.open(path, verify=False)) == 1000


@pytest.mark.parametrize(
    ("train", "validation", "together"),
    [("a", "a", True), ("absent", "absent", True), ("a", "b", False), ("a", "absent", False), ("absent", "b", False)],
)
def test_files_of_one_folder_belong_together_and_sidecars_without_a_word_on_that_are_taken(
    tmp_path: Path, train: str, validation: str, together: bool
) -> None:
    ours = TokenFile.open(write(tmp_path / "train.npy", pair=train))
    theirs = TokenFile.open(write(tmp_path / "validation.npy", pair=validation))
    (tmp_path / "other").mkdir()
    check_pair(ours, TokenFile.open(write(tmp_path / "other/validation.npy", pair=validation)))
    if together:
        check_pair(ours, theirs)
    else:
        with pytest.raises(UserError, match=r"train\.npy and .*validation\.npy were not made together"):
            check_pair(ours, theirs)


@pytest.mark.parametrize("module", ["token_file.read_regular", "token_ids.open_regular"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOENT])
def test_an_error_that_may_pass_is_not_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, number: int
) -> None:
    path = write(tmp_path / "a.npy", np.arange(5, dtype=np.uint16))

    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"lm_core.data.{module}", fail)
    with pytest.raises(UserError) as caught:
        TokenFile.open(path)
    assert isinstance(caught.value, UnreadableError) == (number != errno.ENOENT)
