"""An archive gives the wanted files, or a line that says what is wrong with it; nothing else is ever written."""

import gzip
import io
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lm_core.errors import UserError
from lm_pipeline.text.named.archive import extract, is_archive

TEXT = b"one line\nanother line\n" * 400
LIMIT = 1_000_000
WANTED = {"text": ("text", "text.txt")}
Make = Callable[[Path, dict[str, bytes]], Path]


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def make_tar_of(path: Path, member: tarfile.TarInfo, data: bytes = b"") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member, io.BytesIO(data))
    return path


both = pytest.mark.parametrize("make", [make_zip, make_tar])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "a" / "target"
    folder.mkdir(parents=True)
    return folder


def refusal(archive: Path, target: Path, limit: int = LIMIT) -> str:
    """What is said about an archive that writes nothing, neither in the target nor beside it."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        extract(archive, WANTED, target, limit)
    assert sorted(archive.parent.rglob("*")) == before
    assert str(archive) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@both
@pytest.mark.parametrize("name", ["text", "text.txt", "./some/folder/text"])
def test_a_wanted_member_is_written_under_the_name_that_was_asked_for(
    make: Make, name: str, tmp_path: Path, target: Path
) -> None:
    archive = make(tmp_path / "archive", {"other": b"no", name: TEXT, "another/other": b"no"})
    assert is_archive(archive)
    extract(archive, WANTED, target, LIMIT)
    assert [path.name for path in target.iterdir()] == ["text"]
    assert (target / "text").read_bytes() == TEXT


@both
def test_the_preferred_name_wins(make: Make, tmp_path: Path, target: Path) -> None:
    extract(make(tmp_path / "archive", {"text.txt": b"second", "text": b"first"}), WANTED, target, LIMIT)
    assert (target / "text").read_bytes() == b"first"


@both
def test_what_was_there_is_replaced_and_nothing_is_written_through_a_link(
    make: Make, tmp_path: Path, target: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    (target / "text").symlink_to(elsewhere)
    (target / "text.new").symlink_to(elsewhere)
    extract(make(tmp_path / "archive", {"text": TEXT}), WANTED, target, LIMIT)
    assert elsewhere.read_bytes() == b"mine"
    assert (target / "text").read_bytes() == TEXT
    assert not (target / "text").is_symlink()
    assert (target / "text.new").is_symlink()


@both
def test_a_missing_member_is_named_with_what_is_there(make: Make, tmp_path: Path, target: Path) -> None:
    members = {f"other{i}": b"" for i in range(7)}
    assert "has no text or text.txt; it has other0, other1, other2, other3, other4 and 2 more" in refusal(
        make(tmp_path / "archive", members), target
    )


@both
def test_a_folder_of_the_wanted_name_is_no_file(make: Make, tmp_path: Path, target: Path) -> None:
    archive = make(tmp_path / "archive", {"text.txt": TEXT})
    if make is make_zip:
        with zipfile.ZipFile(archive, "a") as opened:
            opened.writestr("text/", b"")
        extract(archive, WANTED, target, LIMIT)
    else:
        folder = tarfile.TarInfo("text")
        folder.type = tarfile.DIRTYPE
        assert "has no text" in refusal(make_tar_of(archive, folder), target)


# Hostile


@both
@pytest.mark.parametrize("path", ["../text", "a/../../text", "/text", "C:/text", "..\\text", "../other"])
def test_a_path_that_leaves_the_folder_is_refused(make: Make, path: str, tmp_path: Path, target: Path) -> None:
    line = refusal(make(tmp_path / "archive", {path: TEXT, "inside/text": TEXT}), target)
    assert "is not safe" in line


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_tar_member_that_is_no_file_is_refused(kind: bytes, tmp_path: Path, target: Path) -> None:
    member = tarfile.TarInfo("text")
    member.type, member.linkname = kind, "/etc/passwd"
    assert "text is not a regular file" in refusal(make_tar_of(tmp_path / "archive", member), target)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_a_zip_member_that_is_no_file_is_refused(kind: int, tmp_path: Path, target: Path) -> None:
    member = zipfile.ZipInfo("text")
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr(member, b"/etc/passwd")
    assert "text is not a regular file" in refusal(tmp_path / "archive", target)


@both
def test_a_member_that_is_there_twice_is_refused(make: Make, tmp_path: Path, target: Path) -> None:
    assert "2 members named text" in refusal(make(tmp_path / "archive", {"text": TEXT, "other/text": b"x"}), target)


def test_an_encrypted_member_is_refused(tmp_path: Path, target: Path) -> None:
    path = make_zip(tmp_path / "archive", {"text": TEXT})
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(data)
    assert "text is encrypted" in refusal(path, target)


def test_a_compression_without_a_bound_is_refused(tmp_path: Path, target: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("text", TEXT)
    assert "rare way" in refusal(tmp_path / "archive", target)


# Bombs


@both
def test_a_member_that_is_said_to_be_too_large_is_refused(make: Make, tmp_path: Path, target: Path) -> None:
    line = refusal(make(tmp_path / "archive", {"text": TEXT}), target, limit=len(TEXT) - 1)
    assert f"unpacks to {len(TEXT):,} bytes" in line


def test_a_zip_that_lies_about_a_size_writes_no_more_than_that(tmp_path: Path, target: Path) -> None:
    path = make_zip(tmp_path / "archive", {"text": bytes(50_000_000)})
    data = path.read_bytes()
    path.write_bytes(data.replace((50_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    tracemalloc.start()
    line = refusal(path, target)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "damaged" in line
    assert peak < 10_000_000


@pytest.mark.parametrize("name", ["text", "other"])
def test_a_tar_that_unpacks_to_far_more_than_its_size_is_not_read_further(
    name: str, tmp_path: Path, target: Path
) -> None:
    path = make_tar(tmp_path / "archive", {name: bytes(50_000_000), "text.txt": TEXT})
    tracemalloc.start()
    line = refusal(path, target, limit=10**9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "far more than its size" in line
    assert peak < 10_000_000


# Damaged


@both
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.98])
def test_a_cut_archive_is_damaged(make: Make, keep: float, tmp_path: Path, target: Path) -> None:
    path = make(tmp_path / "archive", {"text": bytes(i * i % 251 for i in range(20_000))})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert "is damaged (" in refusal(path, target)


@both
def test_a_flipped_byte_is_noticed(make: Make, tmp_path: Path, target: Path) -> None:
    path = make(tmp_path / "archive", {"text": bytes(i * i % 251 for i in range(20_000))})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "is damaged (" in refusal(path, target)


def test_a_file_that_is_no_archive_is_said_to_be_none(tmp_path: Path, target: Path) -> None:
    (tmp_path / "archive").write_bytes(TEXT)
    assert not is_archive(tmp_path / "archive")
    assert "neither a zip nor a tar.gz" in refusal(tmp_path / "archive", target)
    with pytest.raises(UserError, match="cannot read"):
        is_archive(tmp_path)


def test_a_gzip_of_a_text_is_to_be_unpacked_first(tmp_path: Path) -> None:
    path, target = tmp_path / "text8.gz", tmp_path / "target"
    path.write_bytes(gzip.compress(b"just a text " * 100))
    target.mkdir()
    assert "one that is not a tar.gz is to be unpacked first" in refusal(path, target)
