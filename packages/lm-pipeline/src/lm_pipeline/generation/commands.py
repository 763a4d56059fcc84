r"""Parsing of a line typed at the prompt: a text to continue, or a command.

/name argument      a command        //usr/bin      the text "/usr/bin"        anything else      a text
"""

import difflib
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from lm_core.errors import UserError
from lm_pipeline.generation.settings import NAMES, Settings, meaning, shown, takes

SEEDS = "Every prompt uses the next seed: the same prompts after the same /seed give the same texts, on either backend."
_OTHERS = {
    "settings": "Show all settings.",
    "again": "Continue the last prompt again, with the next seed.",
    "help": "Show this.",
    "quit": "Leave, as Ctrl-D does.",
}
COMMANDS = tuple(f"/{name}" for name in (*NAMES, *_OTHERS))


@dataclass(frozen=True)
class Command:
    """A command, without its slash."""

    name: str
    argument: str


def read_line(line: str) -> Command | str:
    """A command, or the text of a prompt.

    Raises:
        UserError: for a command that there is not.
    """
    if not line.startswith("/"):
        return line
    if line.startswith("//"):
        return line[1:]
    name, _, argument = line[1:].partition(" ")
    name = name.replace("-", "_")
    if f"/{name}" in COMMANDS:
        return Command(name, argument if name == "stop" else argument.strip())
    near = difflib.get_close_matches(f"/{name.lower()}", COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "/help lists them, and // starts a text with /"
    raise UserError(f"unknown command /{name}; {hint}")


def help_text() -> str:
    """All commands, and how prompts are read."""
    settings = [
        (f"/{name} {'TEXT' if name == 'stop' else 'N'}", f"{meaning(name)} Takes {takes(name)}.") for name in NAMES
    ]
    others = [(f"/{name}", about) for name, about in _OTHERS.items()]
    rules = "A text that starts with / is typed with //. Ctrl-C stops the text that is being written."
    return "\n".join(["Type a prompt, and the model continues it.", table([*settings, *others]), rules, SEEDS])


def settings_text(settings: Settings) -> str:
    """All settings with their values."""
    return table([(f"{name} {shown(settings, name)}", meaning(name)) for name in NAMES])


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Names and what they mean, in two columns that fit the screen."""
    indent = max(len(name) for name, _ in rows) + 4
    width = max(indent + 20, shutil.get_terminal_size().columns - 1)
    return "\n".join(
        textwrap.fill(about, width, initial_indent=f"  {name}".ljust(indent), subsequent_indent=" " * indent)
        for name, about in rows
    )
