"""Errors of torch's compiler in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from lm_core.errors import UserError


@contextmanager
def compiling() -> Iterator[None]:
    """A context in which compiled code is called.

    Raises:
        UserError: when it cannot be compiled.
    """
    try:
        yield
    except RuntimeError as error:
        # By name: importing the compiler's exceptions takes a second and 150 MB.
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"torch cannot compile ({reason}); is there a C++ compiler? else do not compile") from error
