"""What is bad is skipped and counted when that is asked for, by a rule that depends on the input alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_pipeline.text.documents import Flaw, Piece, Place, Rules
from lm_pipeline.text.inputs import InputFile
from lm_pipeline.text.read import read_file
from lm_pipeline.tokens import units as parts
from lm_tokenizer import Tokenizer

Run = Callable[..., int]
GOOD = [f"Document {i}: it's naïve" for i in range(40)]
BAD = ['{"text": null}', '{"text": "cut', "[1]", '{"no": "text"}', '{"text": 5}', '{"text": "\\ud800"}',
       json.dumps({"text": "long" * 100})]  # fmt: skip
REASONS = ["null", "not JSON", "not an object", "no such field", "not a text", "not Unicode", "too long"]


@pytest.fixture
def lines(folder: Path) -> Path:
    """JSON lines, every fifth of which is bad."""
    records = [json.dumps({"text": text}) for text in GOOD]
    for i in range(8):
        records.insert(5 * i, BAD[i % len(BAD)])
    (folder / "a.jsonl").write_text("\n".join(records))
    return folder


def read(path: Path, place: Place | None = None, **rules: Any) -> list[Piece | Flaw]:
    return list(read_file(InputFile.found(path), place or Place(), Rules(on_bad="skip", max_record_bytes=300, **rules)))


@pytest.mark.parametrize(("line", "reason"), [*zip(BAD, REASONS, strict=True)])
def test_a_bad_record_is_skipped_for_its_reason(tmp_path: Path, line: str, reason: str) -> None:
    for name, text in (
        ("a.jsonl", f'{{"text": "a"}}\n{line}\n{{"text": "b"}}'),
        ("a.json", f'[{{"text": "a"}},{line},{{"text": "b"}}]'),
    ):
        if reason != "not JSON" or name == "a.jsonl":  # a string that does not end goes on to the end of a list
            (tmp_path / name).write_text(text)
            found = read(tmp_path / name)
            [flaw] = [one for one in found if isinstance(one, Flaw)]
            assert (flaw.reason, flaw.where) == (reason, "line 2" if name == "a.jsonl" else "item 2")
            assert [one.data for one in found if isinstance(one, Piece)] == [b"a", b"b"]
            assert read(tmp_path / name, flaw.after) == found[2:]


def test_a_line_that_never_ends_is_held_no_longer_than_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' + "x" * 5_000_000 + '\n{"text": "b"}\n')
    [one, flaw, two] = read(path)
    assert isinstance(flaw, Flaw)
    assert (flaw.reason, flaw.where) == ("too long", "line 2")
    assert [one, two] == [Piece(b"a", True, Place(14, 1)), Piece(b"b", True, Place(5_000_029, 3))]


def test_a_text_that_is_not_utf8_is_skipped_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one|tw\xff|three")
    [one, flaw, three] = read(path, separator=b"|")
    assert isinstance(one, Piece)
    assert flaw == Flaw("not UTF-8", "byte 4", Place(8, 2))
    assert isinstance(three, Piece)


def test_what_was_replaced_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one|t\xffw\xfe\xef\xbf\xbd|three")
    [_, flaw, two, _] = read(path, separator=b"|", errors="replace")
    assert flaw == Flaw("replaced by U+FFFD", "byte 4", Place(12, 2), 2)
    assert isinstance(two, Piece)
    assert two.data.decode() == "t\ufffdw\ufffd\ufffd"


SUMMARY = (
    "skipped 8 records: 2 null in a.jsonl (first: line 1); 1 not JSON in a.jsonl (first: line 6); 1 not an object in"
    " a.jsonl (first: line 11); 1 no such field in a.jsonl (first: line 16); 1 not a text in a.jsonl (first: line 21);"
    " 1 not Unicode in a.jsonl (first: line 26); 1 too long in a.jsonl (first: line 31)"
)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy*")}


def test_both_programs_skip_the_same_and_say_so(
    lines: Path, run_make_data: Run, run_train_tokenizer: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--on_bad", "skip", "--max_record_bytes", 300]
    assert run_train_tokenizer("--input", "a.jsonl", "--save_dir", "new", "--vocab_size", 270, *words) == 0
    assert SUMMARY in capsys.readouterr().err.splitlines()
    (lines / "good.txt").write_text("|".join(GOOD))
    plain = Tokenizer.train(["|".join(GOOD).replace("|", "<|endoftext|>")], 270, ["<|endoftext|>"], progress=False)
    assert Tokenizer.load("new").fingerprint == plain.fingerprint
    assert run_make_data("--train", "a.jsonl", "--tokenizer", "tok", "--output", "a", *words) == 0
    assert SUMMARY in capsys.readouterr().err.splitlines()
    assert run_make_data("--train", "good.txt", "--tokenizer", "tok", "--output", "b", "--separator", "|") == 0
    assert contents(lines / "a")["train.npy"] == contents(lines / "b")["train.npy"]


def test_without_being_asked_it_stops_at_the_first(
    lines: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_make_data("--train", "a.jsonl", "--tokenizer", "tok", "--output", "a") == 2
    assert "a.jsonl, line 1: the field 'text' is not a text but null" in capsys.readouterr().err


def test_when_all_is_skipped_it_is_an_error_that_says_why(
    lines: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tokenizer", "tok", "--output", "a", "--on_bad", "skip", "--text_field", "body"]
    assert run_make_data("--train", "a.jsonl", *words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "the inputs hold no text: a.jsonl; skipped 48 records: 46 no such field in a.jsonl (first: line 1)" in line


def test_interrupted_after_any_unit_and_run_again_the_bytes_and_the_summary_are_the_same(
    lines: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--train", "a.jsonl", "--tokenizer", "tok", "--on_bad", "skip", "--max_record_bytes", 300,
             "--shard_bytes", 150, "--threads", 1, "--validation_fraction", 0.2]  # fmt: skip
    assert run_make_data(*words, "--output", "whole") == 0
    capsys.readouterr()
    original, units = parts.Parts.add, 0
    while True:
        left = [units := units + 1]

        def add(self: parts.Parts, unit: parts.Unit, left: list[int] = left) -> None:
            original(self, unit)
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        monkeypatch.setattr(parts.Parts, "add", add)
        code = run_make_data(*words, "--output", f"out{units}")
        monkeypatch.setattr(parts.Parts, "add", original)
        if code == 0:
            break
        capsys.readouterr()
        assert run_make_data(*words, "--output", f"out{units}") == 0
        said = capsys.readouterr().err.splitlines()
        assert said == [f"resuming after {units} finished units", SUMMARY]
        assert contents(lines / f"out{units}") == contents(lines / "whole")
    assert units > 4
