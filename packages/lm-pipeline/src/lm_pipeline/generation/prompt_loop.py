"""Prompts one after another, from a person at a terminal or from a pipe.

    terminal    line editor --> command --> settings changed, shown
                            '-> text -----> Writer --> text on the screen
    otherwise   every line, whatever it begins with --> Writer --> standard output

A line of a pipe is never a command: a text that happens to begin with a slash is a text. Messages go to
the terminal in between, and beside a pipe to standard error.
"""

import io
import sys
from collections.abc import Iterable
from functools import partial
from typing import IO

from lm_core.errors import UserError
from lm_core.terminal import is_terminal, put, say
from lm_pipeline.generation.commands import COMMANDS, Command, help_text, read_line, settings_text
from lm_pipeline.generation.line_editor import LineEditor, history_file
from lm_pipeline.generation.settings import Settings, changed, shown, takes
from lm_pipeline.generation.writer import Model, Writer

INTERRUPTED = 130
HOW_TO_LEAVE = "/quit or Ctrl-D leaves"


def run_prompts(model: Model, settings: Settings, stdin: IO[str] | None = None) -> int:
    """Continue prompts until there are no more; returns the exit code.

    Args:
        model: that continues them.
        settings: at the start.
        stdin: what to read line by line instead of standard input.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # one line that is not UTF-8 is no reason to end
    try:
        if stdin is None and is_terminal(sys.stdin) and is_terminal(sys.stdout):
            return Session(model, settings).run()
        return _continue_lines(model, settings, stdin or sys.stdin or ())
    except KeyboardInterrupt:
        return INTERRUPTED


def _continue_lines(model: Model, settings: Settings, lines: Iterable[str]) -> int:
    """Every line but the empty ones is a prompt; one that cannot be read is named, and makes the exit code 2."""
    writer = Writer(model, settings, _put, say)
    failed = False
    for number, line in enumerate(lines, 1):
        prompt = line.removesuffix("\n")
        if not prompt:
            continue
        writer.note = partial(_note, f"line {number}: ")
        try:
            reason = writer.write(prompt)
        except UserError as error:
            writer.note(str(error))
            failed = True
            continue
        _put("\n")
        if reason == "interrupted":
            return INTERRUPTED
    if writer.settings == settings:  # no prompt has taken a seed
        say("no prompts: standard input holds no text")
    return UserError.exit_code if failed else 0


def _put(text: str) -> None:
    put(text, end="")


def _note(where: str, text: str) -> None:
    say(where + text)


class Session:
    """A person at a terminal."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.writer = Writer(model, settings, self._show, self._say)
        self.editor = LineEditor(COMMANDS, history_file())
        self.last_prompt: str | None = None
        self._in_line = False
        """Whether the cursor stands behind text."""

    def run(self) -> int:
        """Read lines until the last; returns the exit code."""
        self._say(f"{self.writer.model.name}. Type a prompt, or /help.")
        while True:
            try:
                line = self.editor.read("> ")
            except EOFError:
                self._show("\n")
                return 0
            except KeyboardInterrupt:
                self._say(f"\n{HOW_TO_LEAVE}")
                continue
            try:
                if self._take(line):
                    return 0
            except UserError as error:
                self._say(str(error))
            except KeyboardInterrupt:  # where no text was being written yet, or not any more
                self._end_line()

    def _take(self, line: str) -> bool:
        """Do what a line says; returns whether it was the last."""
        if not line:
            return False
        match read_line(line):
            case Command(name="quit"):
                return True
            case Command(name="help"):
                self._say(help_text())
            case Command(name="settings"):
                self._say(settings_text(self.writer.settings))
            case Command(name="again"):
                if self.last_prompt is None:
                    raise UserError("/again: there is no prompt yet")
                self._write(self.last_prompt)
            case Command(name, argument):
                self._set(name, argument)
            case str(prompt):
                self.last_prompt = prompt
                self._write(prompt)
        return False

    def _set(self, name: str, value: str) -> None:
        if not value and name != "stop":
            self._say(f"{name} {shown(self.writer.settings, name)}; it takes {takes(name)}")
            return
        self.writer.settings = changed(self.writer.settings, name, value)
        self._say(f"{name} {shown(self.writer.settings, name)}")

    def _write(self, prompt: str) -> None:
        self.writer.write(prompt)
        self._end_line()

    def _end_line(self) -> None:
        if self._in_line:
            self._show("\n")

    def _show(self, text: str) -> None:
        _put(text)
        self._in_line = not text.endswith("\n")

    def _say(self, text: str) -> None:
        self._show(f"{text}\n")
