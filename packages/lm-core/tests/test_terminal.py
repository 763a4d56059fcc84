"""The one place that prints: what a terminal is shown, and streams that are closed, narrow, full or gone."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lm_core import terminal
from lm_core.errors import UserError, exit_code_of
from lm_core.run.sinks.console import Console


class Screen(io.StringIO):
    """A terminal, or one that has been hung up."""

    def __init__(self, error: int = 0) -> None:
        super().__init__()
        self.error = error

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return super().write(text)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\tb\n é東\U0001f600", "a\tb\n é東\U0001f600"),
        ("\x1b[2J\r\x07\x7f\x00", r"\x1b[2J\r\x07\x7f\x00"),
        ("\x9b31m\u202eabc", r"\x9b31m\u202eabc"),
        (os.fsdecode(b"caf\xe9.txt"), r"caf\xe9.txt"),
        ("\ud83d", r"\ud83d"),
    ],
)
def test_what_commands_a_terminal_or_is_no_character_is_shown(text: str, seen: str) -> None:
    assert terminal.visible(text) == seen
    assert terminal.show(text) == seen.replace("\n", r"\n").replace("\t", r"\t")


def test_error_lines_notes_records_and_results_are_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Screen(), Screen()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def main() -> None:
        terminal.say("note \x1b[2J")
        terminal.put("result \x1b[2J")
        console = Console(0, 1)
        console.say("remark \x1b[2J")
        console.close(failed=False)
        raise UserError("name \x1b]0;a\nb\x07")

    exit_code_of(main, "demo")
    assert "result \\x1b[2J\n" in out.getvalue()
    assert err.getvalue().startswith("note \\x1b[2J\n")
    assert "remark \\x1b[2J\n" in err.getvalue()
    assert err.getvalue().endswith("demo: error: name \\x1b]0;a b\\x07\n")


def test_a_pipe_gets_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.put("\x1b[2J\u202e", end="")
    assert capsys.readouterr().out == "\x1b[2J\u202e"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errno.EIO, 0, ""),
        (errno.EPIPE, 0, ""),
        (errno.ENOSPC, 2, "demo: error: the output cannot be written: the disk is full\n"),
        (errno.EDQUOT, 2, f"demo: error: the output cannot be written: {os.strerror(errno.EDQUOT)}\n"),
    ],
)
def test_a_stdout_that_cannot_be_written_is_no_traceback(
    error: int, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Screen(error))
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(terminal, "drop_stdout", lambda: None)  # the test's own stdout stays
    assert exit_code_of(lambda: terminal.put("text"), "demo") == code
    assert err.getvalue() == said


@pytest.mark.parametrize("error", [errno.EIO, errno.ENXIO])
@pytest.mark.parametrize(("at_start", "code"), [(True, 0), (False, 2)])
def test_an_error_of_the_disk_is_no_terminal_that_hung_up(
    error: int, at_start: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(Screen):
        terminal = at_start

        def isatty(self) -> bool:
            return self.terminal

    out, err = Lost(error), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(terminal, "drop_stdout", lambda: None)

    def main() -> None:
        out.terminal = False  # a terminal that has been hung up says so
        terminal.put("text")

    assert exit_code_of(main, "demo") == code
    said = f"demo: error: the output cannot be written: {os.strerror(error)}\n"
    assert err.getvalue() == (said if code else "")


def test_a_stderr_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Screen(errno.EIO))
    terminal.say("note")
    console = Console(0, 3)
    console.say("note")
    for _ in range(3):
        console.step_done()
    console.close(failed=False)


PROGRAM = r"""
import os, sys
from lm_core.errors import UserError, exit_code_of
from lm_core.terminal import put, say

def main():
    with open("first file", "wb") as file:
        os.write(1, b"a library prints")
        file.write(b"content")
    put("caf\udce9 \u20ac")
    say("caf\udce9 \u20ac")
    raise UserError("caf\udce9")

sys.exit(exit_code_of(main, "demo"))
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_one_to_nowhere_and_no_file_takes_its_number(closed: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, PROGRAM], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "first file").read_bytes() == b"content"


def test_a_narrow_encoding_escapes_and_a_name_that_is_not_utf8_reaches_a_pipe_as_its_bytes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True)
    assert done.stdout == b"a library printscaf\xe9 \\u20ac\n"
    assert done.stderr == b"caf\\xe9 \\u20ac\ndemo: error: caf\\xe9\n"


def test_columns_line_up():
    assert terminal.aligned([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"
