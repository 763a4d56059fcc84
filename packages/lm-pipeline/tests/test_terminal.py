"""A session at a real terminal (a pty): editing, history, Ctrl-C and Ctrl-D, text that arrives as it is drawn."""

import codecs
import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("alphabet.py")
LEFT, UP, BACKSPACE, TAB = "\x1b[D", "\x1b[A", "\x7f", "\t"
CTRL_C, CTRL_D = "\x03", "\x04"
PATIENCE = 120.0


class Terminal:
    """The other end of a terminal in which a session runs."""

    def __init__(self, home: Path, seconds: float = 0.0, input_rc: str = "set enable-bracketed-paste off\n") -> None:
        (home / "inputrc").write_text(input_rc)
        told = {"TERM": "xterm", "COLUMNS": "200", "INPUTRC": str(home / "inputrc"), "XDG_STATE_HOME": str(home)}
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(seconds)],
            stdin=slave, stdout=slave, stderr=slave, env={**os.environ, **told}, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.pieces: list[str] = []

    def until(self, text: str, seconds: float = PATIENCE) -> str:
        """What comes up to `text` and is not read yet."""
        seen, end = "", time.monotonic() + seconds
        while text not in seen:
            ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} did not come, but {seen!r}"
            piece = self.decoder.decode(os.read(self.master, 1 << 16))
            self.pieces.append(piece)
            seen += piece
        return seen

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def press(self, key: str, prompt: str) -> str:
        """What comes up to the prompt when a key is pressed, again where nothing comes.

        Python's readline notices a signal that arrives just before it waits for a key only at the next key.
        """
        for _ in range(int(PATIENCE / 2)):
            self.type(key)
            with contextlib.suppress(AssertionError):
                return self.until(prompt, 2.0)
        raise AssertionError(f"{prompt!r} never came")

    def said(self, keys: str, prompt: str = "\n> ") -> str:
        """What comes up to the next prompt when these keys and Enter are typed."""
        self.type(keys + "\r")
        return self.until(prompt)

    def code(self) -> int:
        """The exit code, when it has ended."""
        return self.process.wait(PATIENCE)


Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A session that has shown its banner and waits."""
    started: list[Terminal] = []

    def begin(**choices: float) -> Terminal:
        started.append(Terminal(tmp_path, **choices))
        assert "alphabet. Type a prompt, or /help." in started[-1].until("> ")
        return started[-1]

    yield begin
    for terminal in started:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)


def test_lines_are_edited_remembered_and_completed_and_the_next_session_remembers_them(
    start: Start, tmp_path: Path
) -> None:
    terminal = start()
    assert "\nabcdef\r\n" in terminal.said(f"axc{LEFT}{BACKSPACE}b")
    assert "\nabcdef\r\n" in terminal.said(UP)
    assert "temperature 0.5" in terminal.said(f"/temp{TAB}0.5")
    assert "\r\n" in terminal.said("")
    terminal.type(CTRL_D)
    assert terminal.code() == 0
    history = tmp_path / "transformer-lm" / "history"
    assert history.stat().st_mode & 0o777 == 0o600
    terminal = start()
    assert "\nabcdef\r\n" in terminal.said(UP + UP)
    terminal.type("/quit\r")
    assert terminal.code() == 0


def test_text_arrives_as_it_is_drawn_and_ctrl_c_stops_the_text_alone(start: Start) -> None:
    terminal = start(seconds=0.02)
    terminal.said("/length 1000")
    terminal.pieces.clear()
    terminal.type("a\r")
    terminal.until("XYZ")  # two seconds after the first id, and long before the last
    assert len(terminal.pieces) > 3
    terminal.type(CTRL_C)
    terminal.until("\r\n> ")
    assert "length 2" in terminal.said("/length 2")
    assert "\nabc\r\n" in terminal.said("a")


def test_ctrl_c_at_the_prompt_clears_the_line_and_says_how_to_leave(start: Start) -> None:
    terminal = start()
    terminal.type("abc")
    terminal.until("abc")
    assert "/quit or Ctrl-D leaves" in terminal.press(CTRL_C, "\n> ")
    assert "\nxyz{\r\n" in terminal.said("x")


def test_commands_change_settings_and_a_mistake_is_a_line(start: Start) -> None:
    terminal = start()
    assert "/again: there is no prompt yet" in terminal.said("/again")
    assert "did you mean /temperature?" in terminal.said("/temprature 1")
    assert "top_p takes a number above 0 and at most 1, not '7'" in terminal.said("/top_p 7")
    assert "top_k 0; it takes a whole number of at least 0" in terminal.said("/top_k")
    assert 'stop "f"' in terminal.said("/stop f")
    assert "\nabcde\r\n" in terminal.said("abcd")
    assert "\nabcde\r\n" in terminal.said("/again")
    settings = terminal.said("/settings")
    assert all(shown in settings for shown in ("temperature 1.0", "seed 2", "length 3", 'stop "f"'))
    assert "next seed" in terminal.said("/help")
    assert "\n/012\r\n" in terminal.said("//")
    assert "the character 'é'" in terminal.said("é")


def test_what_would_command_the_terminal_is_shown(start: Start) -> None:
    terminal = start()
    said = terminal.said("~").partition("\n")[2]  # behind the last character comes the first, which is escape
    assert r"~\x1b !" in said
    assert "\x1b" not in said


def test_a_history_that_cannot_be_written_is_no_error(start: Start, tmp_path: Path) -> None:
    (tmp_path / "transformer-lm").write_text("a file where the folder would be")
    terminal = start()
    assert "\nabcd\r\n" in terminal.said("a")
    assert "\nabcd\r\n" in terminal.said(UP)
