r"""The only module that prints: results to stdout, notes and error lines to stderr.

    text --visible--> say --> stderr, which may be gone
    text --(visible on a terminal)--> put --> stdout, whose loss ends a program

Limits: a pipe or a file gets the text of `put` as it is, so that what reads it loses nothing.
"""

import codecs
import contextlib
import errno
import io
import os
import re
import select
import sys
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from threading import Thread
from typing import IO, Any, NoReturn

_STDOUT, _STDERR = 1, 2
_HELD_UP = 0.5
"""Seconds after which a line is left to its thread."""
_ERRORS = "lm_core.terminal"
_HUNG_UP = (errno.EIO, errno.ENXIO)
"""Errors of a terminal that was hung up; for a file they mean that its disk fails."""
_had_terminal = False
"""Whether stdout was a terminal at the start: one that has been hung up no longer says that it is one."""

# C0 but newline and tab, delete, C1 (ECMA-48); the overrides and isolates of the bidirectional algorithm (UAX #9).
_COMMANDING = [*range(0x00, 0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)]
_TURNING = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPED = {code: chr(code).encode("unicode_escape").decode() for code in (*_COMMANDING, *_TURNING)}
# A lone surrogate is not a character. Those of PEP 383 stand for a byte of a file's name that is not UTF-8.
_ESCAPED |= {code: f"\\u{code:x}" for code in range(0xD800, 0xE000)}
_ESCAPED |= {0xDC00 + byte: f"\\x{byte:x}" for byte in range(0x80, 0x100)}
_IN_A_LINE = _ESCAPED | {ord(c): c.encode("unicode_escape").decode() for c in "\n\t\u2028\u2029"}


_mark: ContextVar[str] = ContextVar("mark", default="")
"""What every line of a thread begins with."""
_speaks = True
"""Whether this process prints: of the ranks of a run, the first alone does."""
_reports: Callable[[BaseException], bool] | None = None
"""Whether it prints an error that ends it, as do the other ranks."""


class OutputError(OSError):
    """Standard output cannot be written: the disk under it is full, for one."""


def visible(text: str) -> str:
    r"""The text with control characters as Python spells them, such as `\x1b`; newline and tab stay.

    A terminal obeys whoever writes to it: a model of bytes, or who chose the name of a file.
    """
    return text.translate(_ESCAPED)


def speak(first: bool = True, reports: Callable[[BaseException], bool] | None = None) -> None:
    """Print from now on, or where this is not the `first` rank, print nothing but an error for which `reports` is true.

    What a library or Python itself prints is not affected.
    """
    global _speaks, _reports
    _speaks, _reports = first, reports


def mark_lines(mark: str) -> None:
    """Begin every line that this thread prints from now on with `mark`, as that of one run among several."""
    _mark.set(mark)


def marked(text: str) -> str:
    """The lines of a text with the mark of this thread."""
    mark = _mark.get()
    return "\n".join(mark + line if line else line for line in text.split("\n")) if mark else text


def end(code: int) -> NoReturn:
    """End the process here, with what was printed and nothing else."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def show(value: object) -> str:
    """A value, such as a file's name, to stand inside a line: as `visible`, newlines and tabs too."""
    return str(value).translate(_IN_A_LINE)


def say(text: str, end: str = "\n") -> None:
    """Print to stderr, for a person. An error, such as a reader that has gone, is ignored."""
    if _speaks:
        _complain(marked(text) + end)


def _complain(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        _write(sys.stderr, visible(text))


def say_error(program: str, error: object) -> None:
    """Print an error as one line that begins with the program's name."""
    line = re.sub("[ \t\n]+", " ", visible(str(error))).strip()
    if _reports is None or not isinstance(error, BaseException) or _reports(error):
        _complain(f"{program}: error: {line}\n")


def put(text: str, end: str = "\n", *, styled: bool = False) -> None:
    """Print to stdout, at once. Text that is `styled` is our own, with control characters that are meant.

    Raises:
        BrokenPipeError: when nobody reads any more.
        OutputError: when it cannot be written otherwise.
    """
    if not _speaks:
        return
    person = is_terminal(sys.stdout)
    try:
        _write(sys.stdout, marked(visible(text) if person and not styled else text) + end)
    except OSError as error:
        drop_stdout()  # else Python complains again when it flushes at exit
        if error.errno == errno.EPIPE or (error.errno in _HUNG_UP and (person or _had_terminal)):
            raise BrokenPipeError(error.errno, error.strerror) from None
        raise OutputError(error.errno, error.strerror) from None


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether a person is at the other end."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def prepare() -> None:
    """Make the standard streams fit to print any text; to be called before a program opens its first file.

    A stream that was closed (`>&-`) is one to nowhere: its number would else be given to the next file that is opened,
    and what a library prints would land there. A character that the encoding lacks is escaped, and a byte of a file's
    name that is not UTF-8 (PEP 383) is written as that byte.
    """
    global _had_terminal
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, errors=_ERRORS))  # noqa: PTH123, SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)
    _had_terminal = is_terminal(sys.stdout)


def drop_stdout() -> None:
    """Send what is still to be printed nowhere."""
    _drop(_STDOUT)


def say_without_waiting(text: str) -> None:
    """Print a line to stderr, below what stands there, for a thread that nothing may hold up.

    A full pipe that nobody reads holds up who writes, and so does the lock of a stream in the hands of another thread.
    """
    if not _speaks:
        return
    line = Thread(target=_tell, args=(f"\n{visible(text)}\n".encode("ascii", "backslashreplace"),), daemon=True)
    line.start()
    line.join(_HELD_UP)


def give_up_stuck_outputs(patience: float) -> None:
    """Send stdout and stderr nowhere from now on if they take nothing for `patience` seconds.

    The standard streams then continue: a write that waits, and is interrupted by a signal, is tried again by Python.
    """
    end = time.monotonic() + patience
    for number in (_STDOUT, _STDERR):
        room = select.poll()
        room.register(number, select.POLLOUT)
        if not room.poll(max(0.0, 1000 * (end - time.monotonic()))):
            _drop(number)


def _write(stream: Any, text: str) -> None:
    if stream is not None:
        stream.write(text)
        stream.flush()


def _tell(line: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody may be reading any more
        os.write(_STDERR, line)


def _drop(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(_ERRORS, _escape)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table: columns as wide as their widest cell, two spaces between."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
