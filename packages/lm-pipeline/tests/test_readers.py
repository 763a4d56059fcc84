"""Documents come out of every kind of file, from any place in it, in bounded memory; what is wrong is named."""

import builtins
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.errors import UserError
from lm_pipeline.text import plain
from lm_pipeline.text.documents import Piece, Place, Rules
from lm_pipeline.text.inputs import InputFile
from lm_pipeline.text.read import read_file


def pieces(path: Path, place: Place | None = None, **rules: Any) -> list[Piece]:
    found = read_file(InputFile.found(path), place or Place(), Rules(**rules))
    return [piece for piece in found if isinstance(piece, Piece)]


def documents(path: Path, **rules: Any) -> list[str]:
    whole, held = [], b""
    for piece in pieces(path, **rules):
        held += piece.data
        if piece.ends:
            whole.append(held.decode())
            held = b""
    assert not held
    return whole


def refusal(path: Path, **rules: Any) -> str:
    with pytest.raises(UserError) as caught:
        pieces(path, **rules)
    assert str(path) in str(caught.value)
    return str(caught.value)


def jsonl(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def parquet(path: Path, texts: Any, column: str = "text", **options: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"id": range(len(texts)), column: texts}), path, **options)
    return path


# Text


def after_a_space(data: bytes) -> int:
    return data.rfind(b" ") + 1


@given(
    st.lists(st.sampled_from(["|", "||", "|>", "<|", "<|>", "a ", "é", "東 ", " ", "\r", "\n", "\r\n"])).map("".join),
    st.sampled_from([b"", b"|", b"<|>", b"||", b"\n\n", b"\r\n\r\n", b"|\n"]),
    st.booleans(),
    st.sampled_from([1, 2, 7]),
    st.booleans(),
)
def test_a_text_is_cut_at_separators_wherever_the_blocks_end_and_can_be_taken_up_after_any_piece(
    tmp_path_factory: pytest.TempPathFactory, text: str, separator: bytes, mark: bool, block: int, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "text.txt"
    path.write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "BLOCK", block)
        rules: Any = {"separator": separator, "cut": after_a_space if cut else None, "long": 3}
        either = re.escape(separator.decode().replace("\r\n", "\n")).replace("\\\n", "\r?\n")
        parts = re.split(either, text) if separator else [text]
        assert documents(path, **rules) == [part for part in parts if part]
        found = pieces(path, **rules)
        for i, piece in enumerate(found):
            rest = b"".join(later.data for later in found[i + 1 :])
            assert b"".join(later.data for later in pieces(path, piece.after, **rules)) == rest
        assert cut or all(piece.ends for piece in found)


def test_a_long_document_is_held_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("word " * 20_000)
    found = pieces(path, cut=after_a_space, long=3000)
    assert max(len(piece.data) for piece in found) <= 6000
    assert [piece.ends for piece in found] == [False] * (len(found) - 1) + [True]
    assert len(pieces(path, cut=lambda _: 0, long=3000)) == 1  # nowhere to cut: it is read whole


def test_what_never_ends_and_cannot_be_cut_is_refused_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "BLOCK", 100)
    monkeypatch.setattr(plain, "MOST_HELD", 1000)
    path = tmp_path / "zeros.txt.gz"
    path.write_bytes(gzip.compress(b"one|" + bytes(10_000)))
    assert "has 1,096 bytes in one stretch from byte 4 on, without a place to cut" in refusal(path, separator=b"|")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_what_is_not_utf8_is_named_by_its_byte_or_replaced(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(mark + b"one|tw\xff" + "é".encode())
    assert f"byte {6 + len(mark)} is wrong" in refusal(path, separator=b"|")
    assert documents(path, separator=b"|", errors="replace") == ["one", "tw\ufffdé"]


# JSON lines


def test_a_line_is_a_document_and_empty_ones_are_dropped(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "one\ntwo|", "id": 1}, {"text": ""}, {"text": "東京 \x00"})
    path.write_text("\ufeff" + path.read_text() + '\n  \n{"text": "no line end"}')
    assert documents(path, separator=b"|") == ["one\ntwo|", "東京 \x00", "no line end"]
    found = pieces(path)
    assert [piece.data for piece in pieces(path, found[0].after)] == [piece.data for piece in found[1:]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "cut', "line 3 is not valid JSON"),
        ("[" * 100_000, "line 3 is not valid JSON"),
        ('["text"]', "line 3 is not a JSON object with a field 'text'"),
        ('{"texts": "a", "id": 3}', "line 3: no field 'text'; set text_field: did you mean 'texts'?"),
        ('{"id": 3, "body": ""}', "line 3: no field 'text'; set text_field: there are body, id"),
        ('{"text": null}', "line 3: the field 'text' is not a text but null"),
        ('{"text": ["a", 1]}', """line 3: the field 'text' is not a text but ["a", 1]"""),
        ('{"text": {"en": "a"}}', 'not a text but {"en": "a"}; set text_field to text.en'),
        ('{"text": "a\\ud800b"}', "line 3: character 1 is a lone surrogate"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n")
    assert said in refusal(path)


def test_bad_bytes_in_a_line_are_named_by_their_place_in_the_file_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "b\xff\\ud800c"}\n')
    assert "byte 25 is wrong" in refusal(path)
    assert documents(path, errors="replace") == ["a", "b\ufffd\ufffdc"]


# Parquet


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string()], ids=str)
def test_a_row_is_a_document(tmp_path: Path, kind: Any) -> None:
    texts = [f"document {i} é" if i % 7 else "" for i in range(1000)]
    path = parquet(tmp_path / "a.parquet", pyarrow.array(texts, kind), "body", row_group_size=300)
    assert documents(path, field="body") == [text for text in texts if text]
    found = pieces(path, field="body")
    for i in (0, 255, 500, len(found) - 1):
        assert pieces(path, found[i].after, field="body") == found[i + 1 :]


def test_what_is_wrong_with_a_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet(path, ["a"], "texts")
    assert "no field 'text'; set text_field: did you mean 'texts'?" in refusal(path)
    assert "the column 'id' holds int64, not text" in refusal(path, field="id")
    parquet(path, ["a", None, "b"])
    assert "row 2: the column 'text' has no value" in refusal(path)
    data = parquet(path, [f"text {i}" for i in range(100)], compression="none").read_bytes()
    header = data.index(b"text 0") - 40
    for damaged in (b"", b"no parquet", data[: len(data) // 2], data[:header] + bytes(30) + data[header + 30 :]):
        path.write_bytes(damaged)
        assert "damaged" in refusal(path)
    assert refusal(path).endswith("): copy or download it again, or leave it out")
    bad = pyarrow.array([b"fine", b"b\xff"]).view(pyarrow.string())
    assert "row 2 is not UTF-8: byte 1" in refusal(parquet(path, bad))
    assert documents(path, errors="replace") == ["fine", "b\ufffd"]


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError
        return original(name, *rest)

    path = parquet(tmp_path / "a.parquet", ["a"])
    monkeypatch.setattr(builtins, "__import__", without)
    assert "is parquet, which needs pyarrow: pip install pyarrow" in refusal(path)


# Files that do not keep still


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (lambda path: path.unlink(), "vanished while it was read"),
        (lambda path: path.write_text("another|text|of another size"), "changed while it was read"),
    ],
)
def test_a_file_that_vanishes_or_changes_is_named(tmp_path: Path, event: Any, said: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one|two|three")
    reading = read_file(InputFile.found(path), Place(), Rules(separator=b"|"))
    assert getattr(next(reading), "data", None) == b"one"
    event(path)
    with pytest.raises(UserError, match=said):
        list(reading)
