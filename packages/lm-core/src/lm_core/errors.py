"""Expected failures: one line for the user, and an exit code that scripts can act on."""

import errno
from collections.abc import Callable

from lm_core import terminal


class UserError(Exception):
    """A mistake the user can fix. The message says what, where and what to do, in one line; exit code 2."""

    exit_code = 2


class UnreadableError(UserError):
    """A file that cannot be read at the moment; it may be intact, so it is neither rebuilt nor deleted."""


class MemoryFullError(MemoryError):
    """The memory of a device is full; the message says how full."""


OUT_OF_MEMORY = "lower the batch size, the sequence length or the model's size, or close other programs"
_SAID_BY_FRAMEWORKS = (
    "can't allocate memory", "not enough memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "Unable to allocate", "Insufficient Memory", "maximum allowed buffer size",
)  # fmt: skip
"""torch on the CPU and beside its allocator of CUDA, MLX on the CPU, and MLX on Metal."""


class LostRankError(Exception):
    """Another process that trains the same run has ended (`lm_core.world`); exit code 1."""

    exit_code = 1


class NonFiniteError(Exception):
    """A loss or gradient norm became NaN or infinite. The message names the step; exit code 1."""

    exit_code = 1


def exit_code_of(main: Callable[[], int | None], program: str) -> int:
    """Run `main` and turn the expected failures into a line on stderr and an exit code.

    A reader that closes our standard output early (`... | head`), and a terminal that hangs up, end the program
    quietly, as they do other tools.
    """
    terminal.prepare()
    try:
        code = main() or 0
        terminal.put("", end="")  # flush here, where a reader that has gone is expected, and not at exit
        return code
    except (UserError, NonFiniteError, LostRankError) as error:
        terminal.say_error(program, error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        terminal.drop_stdout()
        return 0
    except terminal.OutputError as error:
        terminal.say_error(program, f"the output cannot be written: {_reason(error)}")
        return UserError.exit_code
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        terminal.say_error(program, f"{memory_full(error)}: {OUT_OF_MEMORY}")
        return UserError.exit_code
    except OSError as error:
        if lacks_memory(error):
            terminal.say_error(program, f"{memory_full(error)}: {OUT_OF_MEMORY}")
            return UserError.exit_code
        if error.errno != errno.ENOSPC:
            raise
        terminal.drop_stdout()
        terminal.say_error(program, f"{error.filename or 'the output'} cannot be written: {_reason(error)}")
        return UserError.exit_code


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of Python, numpy, the system or a framework says that there is no memory left."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = any(words in str(error) for words in _SAID_BY_FRAMEWORKS)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or said


def memory_full(error: BaseException) -> str:
    """Say that the memory is full, and how full where the error knows."""
    return str(error) if isinstance(error, MemoryFullError) else "the memory is full"


def _reason(error: OSError) -> str:
    return "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror)
