"""Records go to the metrics file always, to a pipe as JSON lines, and to a terminal around a progress bar."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from lm_core.config import read_toml
from lm_core.errors import UserError
from lm_core.run.folder import RunFolder
from lm_core.run.log import RunLog, read_records

TRAIN = {"loss_nats": 1.25, "tokens_per_second": 1000.0}


def lines(*steps: int) -> str:
    return "".join(json.dumps({"kind": "train", "step": step}) + "\n" for step in steps)


def steps_in(path: Path) -> list[int]:
    return [record["step"] for record in read_records(path)]


def record_all(path: Path, start: int, *records: tuple[str, int, dict[str, Any]]) -> None:
    with contextlib.closing(RunLog(path, start, 10)) as log:
        for record in records:
            log.record(*record)


def test_records_are_flat_json_objects_one_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    record_all(path, 0, ("train", 1, TRAIN), ("eval", 1, {"loss_nats": 2.5, "text": "é\u2028\n"}))
    expected = [
        {"kind": "train", "step": 1, **TRAIN},
        {"kind": "eval", "step": 1, "loss_nats": 2.5, "text": "é\u2028\n"},
    ]
    assert read_records(path) == expected
    assert [json.loads(line) for line in path.read_text().splitlines()] == expected
    said = capsys.readouterr()
    assert [json.loads(line) for line in said.out.splitlines()] == expected, (
        "without a terminal every record is printed"
    )
    assert said.err == "", "and there is no bar"


def test_a_record_is_in_the_file_as_soon_as_it_is_made(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "metrics.jsonl", 0, 10)
    log.record("train", 1, TRAIN)
    assert steps_in(tmp_path / "metrics.jsonl") == [1]
    log.close()


def test_a_record_that_is_no_json_is_refused_and_not_half_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(ValueError, match="JSON"):
        record_all(path, 0, ("eval", 1, {"loss_nats": float("nan")}))
    assert path.read_text() == ""


@pytest.mark.parametrize(
    ("there", "start", "kept"),
    [
        (lines(1, 2, 3, 4), 2, [1, 2]),
        (lines(1, 2) + '{"kind": "tra', 2, [1, 2]),
        (lines(1, 2) + '{"kind": "train", "step": 2, "loss_nats": 0.', 5, [1, 2]),
        (lines(1, 2) + "\0\0\0\0", 5, [1, 2]),
        (lines(3, 4), 0, []),
        ("", 3, []),
    ],
)
def test_a_resumed_run_drops_later_records_and_a_torn_line_and_goes_on_on_a_line_of_its_own(
    tmp_path: Path, there: str, start: int, kept: list[int]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(there)
    record_all(path, start, ("train", start + 1, TRAIN))
    assert steps_in(path) == [*kept, start + 1]
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_kept_is_kept_exactly(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record_all(path, 0, ("train", 1, TRAIN | {"lr": 3e-4, "by_bucket": {"a": 0.1 + 0.2}}))
    before = path.read_bytes()
    record_all(path, 1)
    assert path.read_bytes() == before


def test_said_lines_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path / "metrics.jsonl", 0, 10)
    log.say("early stop")
    log.close()
    assert capsys.readouterr() == ("", "early stop\n")


def on_a_terminal(program: str) -> str:
    """What a terminal shows of a program."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's way of saying that the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


def test_a_terminal_shows_a_bar_below_a_short_line_for_each_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    shown = on_a_terminal(f"""
from pathlib import Path
from lm_core.run.log import RunLog
log = RunLog(Path({str(path)!r}), 2, 5)
for step in (3, 4, 5):
    log.record("train", step, {{"loss_nats": 1.23456, "tokens_per_second": 98765.4}})
    log.step_done()
log.record("eval", 5, {{"loss_nats": 2.5}})
log.say("a word")
log.close()
""")
    assert '"kind": "train"' not in shown
    assert "step       5  valid  loss 2.5000\r\n" in shown
    assert "a word\r\n" in shown
    assert "5/5" in shown
    assert "loss 1.2346  98,765 tokens/s" in shown
    assert steps_in(path) == [3, 4, 5, 5], "the file has them all the same"


# The folder


def test_a_folder_holds_a_run_once_its_config_is_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "a")
    assert not folder.holds_run()
    folder.prepare("steps = 1\n")
    assert folder.holds_run()
    assert read_toml(folder.config) == {"steps": 1}


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to save_dir .*file"):
        RunFolder(tmp_path / name).prepare("")


# A log that is not one


@pytest.mark.parametrize("line", ["[" * 100_000, '{"step": "1"}', "9" * 5000, "{oops"])
def test_a_line_that_is_no_record_is_left_out_and_that_is_said(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(1) + line + "\n" + lines(3))
    assert steps_in(path) == [1, 3]
    record_all(path, 3)
    assert "lines skipped that are not records: 1" in capsys.readouterr().err
    assert path.read_text() == lines(1, 3)


def test_the_torn_last_line_of_a_killed_run_is_left_out_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(1) + '{"step": 2')
    record_all(path, 3)
    assert capsys.readouterr().err == ""
    assert path.read_text() == lines(1)


def test_a_log_of_nothing_but_a_hole_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.touch()
    os.truncate(path, 1 << 40)
    assert steps_in(path) == []


def test_a_pipe_in_the_place_of_the_log_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: not a regular file"):
        RunLog(tmp_path / "metrics.jsonl", 0, 10)


def test_after_a_flush_that_failed_the_whole_file_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    with contextlib.closing(RunLog(path, 0, 10)) as log:
        log.record("train", 1, TRAIN)
        with monkeypatch.context() as patch:

            def forget(_descriptor: int) -> None:
                raise OSError(5, "Input/output error")

            patch.setattr(os, "fsync", forget)
            with pytest.raises(OSError, match="Input/output error"):
                log.flush()
        before = path.stat().st_ino
        log.record("train", 2, TRAIN)
        log.flush()
        assert path.stat().st_ino != before
        log.record("train", 3, TRAIN)
        log.flush()
    assert steps_in(path) == [1, 2, 3]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_console_that_cannot_be_written_to_ends_nothing(tmp_path: Path, stream: str) -> None:
    program = (
        "from pathlib import Path; from lm_core.run.log import RunLog\n"
        f"log = RunLog(Path({str(tmp_path / 'metrics.jsonl')!r}), 0, 10)\n"
        "log.record('train', 1, {'loss_nats': 1.0, 'tokens_per_second': 1.0}); log.say('a line')\n"
        "log.record('train', 2, {'loss_nats': 1.0, 'tokens_per_second': 1.0}); log.close()\n"
        "import os; os._exit(3)"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], **{stream: full}, check=False)
    assert done.returncode == 3
    assert steps_in(tmp_path / "metrics.jsonl") == [1, 2]
