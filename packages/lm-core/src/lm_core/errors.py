"""What a person sees when something goes wrong: one line, and an exit code that scripts can act on."""

import errno
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake the user can mend. The message says what, where and what to do, in one line; exit code 2."""

    exit_code = 2


class NonFiniteError(Exception):
    """A loss or gradient norm became NaN or infinite. The message names the step; exit code 1."""

    exit_code = 1


def exit_code_of(main: Callable[[], int | None], program: str) -> int:
    """Run `main` and turn the two expected failures into a line on stderr and an exit code.

    A reader that closes our standard output early (`... | head`) ends the program quietly, as it does other tools.
    """
    try:
        code = main() or 0
        sys.stdout.flush()  # here, where a reader that has gone is expected, and not at exit
        return code
    except (UserError, NonFiniteError) as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python would complain again when it flushes stdout at exit: it is given somewhere to flush to.
        _silence_stdout()
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _silence_stdout()
        print(
            f"{program}: error: {error.filename or 'the output'} cannot be written: the disk is full", file=sys.stderr
        )
        return UserError.exit_code


def _silence_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
