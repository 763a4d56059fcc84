"""A named dataset is found where a person has it, or is downloaded and verified; its splits are the customary ones."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from lm_core.errors import UserError
from lm_pipeline.text.named import DATASETS, SPLITS, Dataset, DatasetFiles, TextFile, find_dataset
from lm_pipeline.text.named.download import Patience, RemoteFile

TEXTS = {"train": b"the cat sat\n" * 30, "valid": b"the dog sat\n", "test": "the zoé sat\n".encode()}
HASHES = ("sha256", "sha1", "md5")


def hash_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def find(name: str, data_dir: Path | None, tmp_path: Path, **options: Any) -> tuple[DatasetFiles, list[str]]:
    said: list[str] = []
    return find_dataset(name, data_dir, tmp_path / "cache", said.append, **options), said


def refusal(name: str, data_dir: Path | None, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        find(name, data_dir, tmp_path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_three(folder: Path, pattern: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in TEXTS.items():
        (folder / pattern.format(split)).write_bytes(text)


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


# The table


def test_every_entry_of_the_table_is_complete() -> None:
    for name, dataset in DATASETS.items():
        assert name == dataset.name
        assert len(dataset.files) in (1, len(SPLITS))
        assert all(len(layout) == len(dataset.files) for layout in dataset.layouts)
        for item in (*dataset.files, *(file for source in dataset.sources for file in source)):
            algorithm, digits = item.known_hash.split(":")
            assert len(bytes.fromhex(digits)) == hashlib.new(algorithm).digest_size
        for source in dataset.sources:
            texts = {file.name: file.known_hash for file in dataset.files}
            direct = [remote for remote in source if remote.name in texts]
            assert len(direct) in (0, len(texts))
            assert all(remote.known_hash == texts[remote.name] for remote in direct)
            assert all(url.startswith("http") for remote in source for url in remote.urls)
            assert all(0 < remote.size < dataset.limit for remote in source)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("wikitext-2", "wikitext2"),
        ("WikiText103", "wikitext103"),
        ("enwiki8", "enwik8"),
        ("shakespeare", "tinyshakespeare"),
        ("PTB", "ptb"),
    ],
)
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(name: str, meant: str, tmp_path: Path) -> None:
    assert refusal(name, None, tmp_path) == f"unknown dataset {name!r}; did you mean {meant!r}?"


def test_a_name_like_none_is_answered_with_all(tmp_path: Path) -> None:
    assert refusal("imagenet", None, tmp_path).endswith(f"known: {', '.join(sorted(DATASETS))}")


# A person's own files


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("ptb", "ptb.{}.txt"),
        ("ptb", "{}.txt"),
        ("wikitext2", "wiki.{}.tokens"),
        ("wikitext2", "wiki.{}.txt"),
        ("wikitext103", "wiki.{}.raw"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_three_files_are_the_splits(name: str, pattern: str, inside: bool, tmp_path: Path) -> None:
    write_three(tmp_path / name if inside else tmp_path, pattern)
    files, said = find(name, tmp_path, tmp_path)
    assert [files.read(split) for split in SPLITS] == list(TEXTS.values())
    assert files.size("train") == len(TEXTS["train"])
    assert len(files.paths) == 3
    assert not (tmp_path / "cache").exists()
    [note] = [line for line in said if "not as published" in line]
    assert all(path.name in note for path in files.paths)


def test_the_folder_that_the_archive_unpacks_to_is_found(tmp_path: Path) -> None:
    write_three(tmp_path / "simple-examples" / "data", "ptb.{}.txt")
    assert find("ptb", tmp_path, tmp_path)[0].read("test") == TEXTS["test"]


@pytest.mark.parametrize(
    ("name", "file"),
    [("enwik8", "enwik8"), ("enwik8", "enwik8.xml"), ("text8", "text8"), ("tinyshakespeare", "input.txt")],
)
def test_a_single_file_is_cut_18_to_1_to_1(name: str, file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(bytes(range(100)))
    files, _ = find(name, tmp_path, tmp_path)
    assert [files.read(split) for split in SPLITS] == [bytes(range(90)), bytes(range(90, 95)), bytes(range(95, 100))]
    assert files.paths == (tmp_path / file,)


def test_the_cut_of_enwik8_is_the_customary_one(tmp_path: Path) -> None:
    path = tmp_path / "enwik8"
    with path.open("wb") as file:  # a file of holes: no 100 MB are written
        for start, mark in ((0, b"a"), (90_000_000, b"b"), (95_000_000, b"c"), (99_999_999, b"d")):
            file.seek(start)
            file.write(mark)
    files, _ = find("enwik8", path, tmp_path)
    assert [files.size(split) for split in SPLITS] == [90_000_000, 5_000_000, 5_000_000]
    validation, test = files.read("validation"), files.read("test")
    assert (validation[:1], test[:1], test[-1:]) == (b"b", b"c", b"d")


@pytest.mark.parametrize("size", [20, 39, 101, 12_345])
def test_the_cut_loses_nothing_at_any_length(size: int, tmp_path: Path) -> None:
    data = bytes(i % 256 for i in range(size))
    (tmp_path / "enwik8").write_bytes(data)
    files, _ = find("enwik8", tmp_path, tmp_path)
    assert b"".join(files.read(split) for split in SPLITS) == data
    assert files.size("train") == size * 18 // 20
    assert files.size("validation") == size * 19 // 20 - size * 18 // 20


@pytest.mark.parametrize("extra", range(4))
def test_no_character_of_a_text_is_cut_in_two(extra: int, tmp_path: Path) -> None:
    text = "x" * extra + "🙂é" * 100
    (tmp_path / "text8").write_text(text, encoding="utf-8")
    files, _ = find("text8", tmp_path, tmp_path)
    assert "".join(files.read(split).decode() for split in SPLITS) == text


def test_a_file_may_be_pointed_at_whatever_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "small_enwik8.txt"
    path.write_bytes(b"<page>" * 20)
    files, said = find("enwik8", path, tmp_path)
    assert files.read("train") == (b"<page>" * 20)[:108]
    assert said == [f"note: not as published for enwik8, so results do not compare: {path}"]


@pytest.mark.parametrize("algorithm", HASHES)
def test_a_published_file_is_taken_without_a_word(algorithm: str, tmp_path: Path) -> None:
    (tmp_path / "text8").write_bytes(b"a" * 100)
    dataset = replace(DATASETS["text8"], files=(TextFile("text8", hash_of(b"a" * 100, algorithm)),))
    assert find("text8", tmp_path, tmp_path, datasets={"text8": dataset})[1] == []


@pytest.mark.parametrize("point", [False, True])
def test_an_archive_is_unpacked_into_the_cache_once(point: bool, tmp_path: Path) -> None:
    members = {f"wikitext-2/wiki.{split}.tokens": text for split, text in TEXTS.items()}
    archive = zipped(tmp_path / "wikitext-2-v1.zip", members)
    files, said = find("wikitext2", archive if point else tmp_path, tmp_path)
    assert [files.read(split) for split in SPLITS] == list(TEXTS.values())
    assert files.paths[0].is_relative_to(tmp_path / "cache" / "wikitext2")
    assert any("unpacking" in line for line in said)
    again, said = find("wikitext2", archive if point else tmp_path, tmp_path)
    assert again == files
    assert not any("unpacking" in line for line in said)


def test_another_archive_of_the_same_name_is_another_text(tmp_path: Path) -> None:
    for text in (b"a" * 100, b"b" * 100):
        zipped(tmp_path / "enwik8.zip", {"enwik8": text})
        assert find("enwik8", tmp_path, tmp_path)[0].read("train") == text[:90]


# A person's mistakes


def test_what_is_not_there_is_said_with_where_it_was_looked_for(tmp_path: Path) -> None:
    line = refusal("wikitext2", tmp_path, tmp_path)
    assert f"no wikitext2 in {tmp_path}: looked for wiki.{{train,valid,test}}.tokens or " in line
    assert "wikitext-2-v1.zip" in line
    assert "there and in its folders wikitext2, wikitext-2" in line


def test_a_missing_folder_is_said_to_be_missing(tmp_path: Path) -> None:
    assert f"data_dir {tmp_path / 'none'} is not there" in refusal("ptb", tmp_path / "none", tmp_path)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    write_three(tmp_path, "ptb.{}.txt")
    (tmp_path / "ptb.valid.txt").unlink()
    assert refusal("ptb", tmp_path, tmp_path).endswith(f"{tmp_path} has ptb.train.txt but no ptb.valid.txt")


def test_one_text_is_not_three(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(TEXTS["train"])
    assert "is one file, and ptb has three" in refusal("ptb", tmp_path / "text", tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "is empty"),
        (b"no line", "has no newline"),
        (b"a\n\xffb", "is not UTF-8: byte 2 is not valid UTF-8"),
        (b"a" * (2**20 - 1) + b"\xc3\n", f"byte {2**20 - 1} is not valid UTF-8"),
        (b"a" * 2**20 + b"\n\xff", f"byte {2**20 + 1} is not valid UTF-8"),
        (b"a\n\xc3", "is cut inside a character at its end"),
    ],
)
def test_a_word_level_file_is_checked(text: bytes, why: str, tmp_path: Path) -> None:
    write_three(tmp_path, "ptb.{}.txt")
    (tmp_path / "ptb.valid.txt").write_bytes(text)
    line = refusal("ptb", tmp_path, tmp_path)
    assert line.startswith(f"{tmp_path / 'ptb.valid.txt'} ")
    assert why in line


def test_bytes_need_be_no_text_but_characters_do(tmp_path: Path) -> None:
    (tmp_path / "any").write_bytes(b"\xff" * 100)
    find("enwik8", tmp_path / "any", tmp_path)
    assert "byte 0 is not valid UTF-8" in refusal("text8", tmp_path / "any", tmp_path)


def test_a_file_too_short_to_be_cut_is_refused(tmp_path: Path) -> None:
    (tmp_path / "enwik8").write_bytes(b"a")
    assert "1 bytes: too few" in refusal("enwik8", tmp_path, tmp_path)


def test_a_file_that_goes_away_is_one_line(tmp_path: Path) -> None:
    write_three(tmp_path, "ptb.{}.txt")
    files, _ = find("ptb", tmp_path, tmp_path)
    (tmp_path / "ptb.test.txt").unlink()
    (tmp_path / "ptb.valid.txt").write_bytes(b"")
    with pytest.raises(UserError, match="cannot read"):
        files.read("test")
    with pytest.raises(UserError, match="became shorter"):
        files.read("validation")


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    assert "cannot be written" in refusal("enwik8", zipped(tmp_path / "a.zip", {"enwik8": b"a" * 100}), tmp_path)


# Downloads


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that has the files of tmp_path / "site"."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "site").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def served(site: str, tmp_path: Path, archived: bytes | None = None) -> dict[str, Dataset]:
    """wikitext2 as this server has it: first as an archive, then as three files."""
    members = {f"wikitext-2/wiki.{split}.tokens": text for split, text in TEXTS.items()}
    if archived is not None:
        members["wikitext-2/wiki.test.tokens"] = archived
    archive = zipped(tmp_path / "site" / "wikitext-2-v1.zip", members).read_bytes()
    files = tuple(TextFile(f"wiki.{split}.tokens", hash_of(text)) for split, text in TEXTS.items())
    write_three(tmp_path / "site", "{}.txt")
    three = [
        RemoteFile(file.name, (f"{site}/{split}.txt",), file.known_hash, len(TEXTS[split]))
        for file, split in zip(files, TEXTS, strict=True)
    ]
    zip_file = RemoteFile("wikitext-2-v1.zip", (f"{site}/wikitext-2-v1.zip",), hash_of(archive), len(archive))
    return {"wikitext2": replace(DATASETS["wikitext2"], files=files, sources=((zip_file,), tuple(three)))}


def cached(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache" / "wikitext2").iterdir()} - {"lock"}


def test_a_download_is_unpacked_verified_and_kept(site: str, tmp_path: Path) -> None:
    datasets = served(site, tmp_path)
    files, said = find("wikitext2", None, tmp_path, datasets=datasets)
    assert [files.read(split) for split in SPLITS] == list(TEXTS.values())
    assert cached(tmp_path) == {file.name for file in datasets["wikitext2"].files}
    assert len(said) == 1
    assert find("wikitext2", None, tmp_path, datasets=datasets) == (files, [])


def test_an_archive_that_somebody_put_there_is_used_and_stays(site: str, tmp_path: Path) -> None:
    datasets = served(site, tmp_path)
    (tmp_path / "cache" / "wikitext2").mkdir(parents=True)
    mine = tmp_path / "cache" / "wikitext2" / "wikitext-2-v1.zip"
    mine.write_bytes((tmp_path / "site" / "wikitext-2-v1.zip").read_bytes())
    _, said = find("wikitext2", None, tmp_path, datasets=datasets)
    assert said == []
    assert mine.name in cached(tmp_path)


def test_a_damaged_cache_is_mended(site: str, tmp_path: Path) -> None:
    datasets = served(site, tmp_path)
    files, _ = find("wikitext2", None, tmp_path, datasets=datasets)
    files.paths[0].write_bytes(TEXTS["train"][:-1] + b"?")
    files, said = find("wikitext2", None, tmp_path, datasets=datasets)
    assert files.read("train") == TEXTS["train"]
    assert len(said) == 1


@pytest.mark.parametrize("fault", ["absent", "archive of another text"])
def test_the_next_source_is_used_where_one_fails(fault: str, site: str, tmp_path: Path) -> None:
    datasets = served(site, tmp_path, archived=None if fault == "absent" else b"another text\n")
    if fault == "absent":
        (tmp_path / "site" / "wikitext-2-v1.zip").unlink()
    files, said = find("wikitext2", None, tmp_path, datasets=datasets)
    assert [files.read(split) for split in SPLITS] == list(TEXTS.values())
    assert ["downloading" in line for line in said].count(True) >= 2


def test_when_no_source_has_it_every_one_is_named_and_what_to_do(site: str, tmp_path: Path) -> None:
    datasets = served(site, tmp_path)
    (tmp_path / "site" / "wikitext-2-v1.zip").unlink()
    (tmp_path / "site" / "valid.txt").write_bytes(b"another sat\n")
    line = refusal("wikitext2", None, tmp_path, datasets=datasets, patience=Patience(attempts=1))
    assert line.startswith("wikitext2 could not be downloaded: ")
    assert f"{site}/wikitext-2-v1.zip: HTTP 404" in line
    assert f"{site}/valid.txt: what it sends is not the published file" in line
    assert line.endswith("--data_dir")
    assert cached(tmp_path) == {"wiki.train.tokens"}


def test_two_that_want_it_at_once_download_it_once(site: str, tmp_path: Path) -> None:
    datasets, said, found = served(site, tmp_path), list[str](), list[bytes]()

    def work() -> None:
        files = find_dataset("wikitext2", None, tmp_path / "cache", said.append, datasets=datasets)
        found.append(files.read("train"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [TEXTS["train"]] * 4
    assert sum("downloading" in line for line in said) == 1
