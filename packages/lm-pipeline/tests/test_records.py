"""Records of every format give the documents that its own library finds, from any place on, packed or not."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.errors import UserError
from lm_pipeline.text import json_list
from lm_pipeline.text.documents import Flaw, Piece, Place, Rules
from lm_pipeline.text.inputs import InputFile
from lm_pipeline.text.read import read_file


def read(path: Path, place: Place | None = None, **rules: Any) -> list[Piece | Flaw]:
    return list(read_file(InputFile.found(path), place or Place(), Rules(**rules)))


def texts(path: Path, **rules: Any) -> list[str]:
    return [piece.data.decode() for piece in read(path, **rules) if isinstance(piece, Piece)]


def refusal(path: Path, **rules: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **rules)
    return str(caught.value)


def check_every_place(path: Path, **rules: Any) -> None:
    """From behind each piece or flaw, reading finds the rest."""
    found = read(path, **rules)
    for i, one in enumerate(found):
        assert read(path, one.after, **rules) == found[i + 1 :]
    assert all(a.after.record < b.after.record for a, b in pairwise(found))


strange = st.text(st.sampled_from('ab",\n\r\t\\[]{} é\U0001f600:'), max_size=6)
records = st.lists(st.fixed_dictionaries({"text": strange, "[": st.lists(strange, max_size=2)}), max_size=5)


@given(records, st.sampled_from([None, 1]), st.booleans(), st.sampled_from([1, 2, 5, 1000]))
def test_a_json_list_is_read_item_by_item(
    tmp_path_factory: pytest.TempPathFactory, items: list[Any], indent: int | None, ascii: bool, block: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "list.json"
    path.write_text(json.dumps(items, indent=indent, ensure_ascii=ascii) + "\n", encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "BLOCK", block)
        assert texts(path) == [item["text"] for item in items if item["text"]]
        check_every_place(path)


@pytest.mark.parametrize("count", [1000, 1001])
@pytest.mark.parametrize("block", [1, 7, 8])
def test_a_list_of_backslashes_is_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, block: int
) -> None:
    sizes, scan = [], json_list._Items._scan

    def noted(items: Any, depth: int, in_string: bool) -> Any:
        sizes.append(len(items.block))
        return scan(items, depth, in_string)

    monkeypatch.setattr(json_list, "BLOCK", block)
    monkeypatch.setattr(json_list._Items, "_scan", noted)
    path = tmp_path / "a.json"
    path.write_text('[{"text": "' + "\\" * count + '"' * (1 + count % 2) + '}, {"text": "b"}]')
    [flaw, piece] = read(path, max_record_bytes=100, on_bad="skip")
    assert isinstance(flaw, Flaw)
    assert (flaw.reason, flaw.where) == ("too long", "item 1")
    assert isinstance(piece, Piece)
    assert piece.data == b"b"
    assert max(sizes) <= block + 1


def test_a_json_file_of_lines_is_read_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert texts(path) == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"text": "a"}, {"text": "b"', "is truncated: its list does not end"),
        ('[{"text": "a"}]\n{"text": "b"}', "continues after the list ends, at byte 15"),
        ('[{"text": "a"}, 5]', "item 2 is not a JSON object with a field 'text'"),
        ('[{"text": "a"},, {"text": "b"}]', "item 2 is not valid JSON"),
        ('[{"text": "a"}, {"texts": "b"}]', "item 2: no field 'text'; set text_field: did you mean 'texts'?"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert said in refusal(path)


cells = st.text(st.sampled_from('ab",\n\t é'), max_size=6)


@given(st.lists(st.tuples(cells, cells), max_size=6), st.sampled_from(["csv", "tsv"]), st.sampled_from(["\n", "\r\n"]))
def test_a_column_of_a_table_of_text_is_what_pythons_csv_reads(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], kind: str, end: str
) -> None:
    held = io.StringIO(newline="")
    writer = csv.writer(held, delimiter="," if kind == "csv" else "\t", lineterminator=end)
    writer.writerows([("id", "text"), *rows])
    path = tmp_path_factory.getbasetemp() / f"rows.{kind}"
    path.write_text("\ufeff" + held.getvalue(), encoding="utf-8", newline="")
    assert texts(path) == [text for _, text in rows if text]
    check_every_place(path)


def test_what_is_wrong_with_a_row_is_named_and_reading_goes_on_behind_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,id\none,1\ntwo\n"three,3\nfour,4\n')
    assert "line 3 has 1 columns, and the first line 2" in refusal(path)
    assert "no field 'body'; set text_field: there are id, text" in refusal(path, field="body")
    assert texts(path, on_bad="skip") == ["one", "four"]
    flaws = [one for one in read(path, on_bad="skip") if isinstance(one, Flaw)]
    assert [(flaw.reason, flaw.where) for flaw in flaws] == [
        ("not as many columns", "line 3"),
        ("malformed row", "line 4"),
    ]
    check_every_place(path, on_bad="skip")


# Packed


def zstd(data: bytes) -> bytes:
    held = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(held, "zstd") as packed:
        packed.write(data)
    return bytes(held.getvalue())


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("gz", gzip.compress), ("zst", zstd), ("bz2", bz2.compress), ("xz", lzma.compress), ("", bytes)],
)
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "txt"])
def test_what_is_packed_reads_as_what_was_packed(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes], kind: str
) -> None:
    documents = [f"text {i} é" for i in range(50)]
    plain = {
        "jsonl": "\n".join(json.dumps({"text": text}) for text in documents),
        "json": json.dumps([{"text": text} for text in documents]),
        "csv": "text\n" + "\n".join(documents),
        "txt": "|".join(documents),
    }[kind].encode()
    path = tmp_path / f"a.{kind}.{suffix}".rstrip(".")
    path.write_bytes(pack(plain[:100]) + pack(plain[100:]))  # two members, as `cat a.gz b.gz` makes
    assert texts(path, separator=b"|") == documents
    check_every_place(path, separator=b"|")
    if suffix:
        hidden = tmp_path / f"hidden.{kind}"
        hidden.write_bytes(pack(plain))
        assert texts(hidden, separator=b"|") == documents
        path.write_bytes(pack(plain)[:-5])
        assert str(path) in refusal(path)


# Tables


def arrow(path: Path, table: Any, stream: bool) -> Path:
    with (pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file)(path, table.schema) as file:
        file.write_table(table, max_chunksize=7)
    return path


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
COLUMNS: dict[str, tuple[Any, str, list[str]]] = {
    "text": (["one", "", "two é"], "a", ["one", "two é"]),
    "large": (pyarrow.array(["one", "two"], pyarrow.large_string()), "a", ["one", "two"]),
    "view": (pyarrow.array(["one", "two"], pyarrow.string_view()), "a", ["one", "two"]),
    "bytes": ([b"one", "é".encode()], "a", ["one", "é"]),
    "dictionary": (pyarrow.array(["one", "two", "one"]).dictionary_encode(), "a", ["one", "two", "one"]),
    "nested": ([{"b": {"c": "one"}}, {"b": {"c": "two"}}], "a.b.c", ["one", "two"]),
    "nested dictionary": (
        pyarrow.StructArray.from_arrays([pyarrow.array(["x", "y", "x"]).dictionary_encode()], ["b"]),
        "a.b",
        ["x", "y", "x"],
    ),
    "list": ([["one", "two"], [], ["three"]], "a", ["one\ntwo", "three"]),
    "messages": ([CHAT, CHAT[:1]], "a", ["user: hi\nassistant: ho\n", "user: hi\n"]),
    "nested messages": ([{"b": CHAT}], "a.b", ["user: hi\nassistant: ho\n"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_gives_its_texts(tmp_path: Path, kind: str, column: str) -> None:
    values, field, documents = COLUMNS[column]
    table = pyarrow.table({"id": range(len(values)), "a": values})
    path = tmp_path / f"t.{'parquet' if kind == 'parquet' else 'arrow'}"
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        arrow(path, table, stream=kind == "stream")
    assert texts(path, field=field) == documents
    check_every_place(path, field=field)


@pytest.mark.parametrize("stream", [True, False])
def test_an_arrow_file_goes_on_in_the_middle_and_what_is_wrong_is_named(tmp_path: Path, stream: bool) -> None:
    rows = [f"row {i}" if i % 5 else None for i in range(40)]
    path = arrow(tmp_path / "a.arrow", pyarrow.table({"text": rows}), stream)
    assert "row 1: the column 'text' has no value" in refusal(path)
    assert texts(path, on_bad="skip") == [row for row in rows if row]
    check_every_place(path, on_bad="skip")
    path.write_bytes(path.read_bytes()[:300])
    assert "a.arrow is damaged, or not arrow" in refusal(path)


def test_a_struct_is_not_a_text_but_its_fields_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"data": [{"text": "one", "n": 1}]}), path)
    assert "set text_field to one of data.text, data.n" in refusal(path, field="data")
    assert "no field 'data.txet'" in refusal(path, field="data.txet")
    assert "the column 'data.n' holds int64, not text" in refusal(path, field="data.n")


# Fields


@pytest.mark.parametrize(
    ("record", "field", "text"),
    [
        ({"a": {"b": "one"}}, "a.b", "one"),
        ({"a.b": "flat", "a": {"b": "one"}}, "a.b", "flat"),
        ({"text": ["one", "two"]}, "text", "one\ntwo"),
        ({"messages": CHAT}, "messages", "user: hi\nassistant: ho\n"),
        ({"conversations": [{"from": "human", "value": "{role}"}]}, "conversations", "human: {role}\n"),
        ({"m": [{"role": "a", "content": [{"text": "b"}, {"text": "c"}]}]}, "m", "a: bc\n"),
    ],
)  # fmt: skip
def test_a_field_is_found_and_written(tmp_path: Path, record: object, field: str, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record))
    assert texts(path, field=field) == [text]


def test_messages_are_written_as_the_format_says(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": CHAT}))
    assert texts(path, field="messages", message_format="<{role}>{content}</>") == ["<user>hi</><assistant>ho</>"]
    path.write_text(json.dumps({"messages": [{"role": "user", "content": None}]}))
    assert "line 1: the content of message 1 in the field 'messages' is not a text" in refusal(path, field="messages")


def test_without_pyarrow_zstd_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstd(b"text"))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "is compressed by zstd, which needs pyarrow: pip install pyarrow" in refusal(path)
