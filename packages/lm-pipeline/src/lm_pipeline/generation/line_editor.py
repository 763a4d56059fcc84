"""Lines from a terminal, by the readline module: editing, a history that outlives the session, completed commands.

The module may be GNU readline or libedit (macOS), or be missing; then the terminal's own editing is left.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

LONGEST_HISTORY = 1000
"""Lines that are kept."""

try:
    import readline as _module
except ImportError:
    _readline: ModuleType | None = None
else:
    _readline = _module


def history_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Path of the history, by the XDG Base Directory Specification; None without a home."""
    state = Path(environment.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # to be ignored, says the specification
        try:
            state = Path.home() / ".local" / "state"
        except RuntimeError:
            return None
    return state / "transformer-lm" / "history"


class LineEditor:
    """Reads lines, and keeps them in a file that only its owner can read; a file that cannot be written is ignored.

    Args:
        words: possible starts of a line, completed by the tab key.
        history: the file; none when there is to be no memory.
    """

    def __init__(self, words: Sequence[str], history: Path | None) -> None:
        self._words, self._history = words, history
        if _readline is None:
            return
        _readline.set_completer(self._completed)
        _readline.set_completer_delims(" ")
        is_libedit = "libedit" in (_readline.__doc__ or "")
        _readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
        _readline.set_history_length(LONGEST_HISTORY)
        if history:
            with contextlib.suppress(OSError):
                _readline.read_history_file(history)

    def read(self, prompt: str) -> str:
        """One line.

        Raises:
            EOFError: when there is none any more.
            KeyboardInterrupt: when it was given up.
        """
        before = _readline.get_current_history_length() if _readline else 0
        line = input(prompt)
        if _readline and self._history:
            new = _readline.get_current_history_length() - before  # 0 for a line like the last one
            with contextlib.suppress(OSError):
                self._remember(_readline, self._history, new)
        return line

    def _remember(self, readline: ModuleType, history: Path, new: int) -> None:
        """Append the newest lines: at once, for a window may be closed, and a second session may write to it too."""
        history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(history, os.O_WRONLY | os.O_CREAT, 0o600))
        if not hasattr(readline, "append_history_file"):  # some builds of libedit
            readline.write_history_file(history)
        elif new:
            readline.append_history_file(new, history)

    def _completed(self, text: str, number: int) -> str | None:
        """The completion with this number, for the first word of a line alone."""
        if _readline is None or _readline.get_begidx() or not text:
            return None
        fitting = [f"{word} " for word in self._words if word.startswith(text)]
        return fitting[number] if number < len(fitting) else None
