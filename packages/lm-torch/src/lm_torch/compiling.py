"""torch's compiler: without its advice, and its errors in one line."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lm_core.errors import UserError

_ADVICE = ["TensorFloat32 tensor cores", r"\s*Online softmax is disabled"]
"""The first is decided by `numerics`, and nobody can follow the second."""


def compiled(function: Callable[..., Any], dynamic: bool | None = None, options: Any = None) -> Callable[..., Any]:
    """`torch.compile`, whose advice is not shown any more; what it returns is called in `compiling`."""
    for advice in _ADVICE:
        warnings.filterwarnings("ignore", message=advice)
    return torch.compile(function, dynamic=dynamic, options=options)


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
