"""How kernels are declared, and how Python calls them.

    @compiled         a kernel that other kernels call
    @kernel("file")   one that Python calls too: the annotations of its parameters say what it takes

A kernel that Python calls is machine code that takes addresses and numbers: an array is its address and its lengths, a
named tuple is its items. The code was compiled once on this machine (build.py) and is loaded from disk (objects.py), so
nobody waits for Numba to be imported. With the environment variable LM_TOKENIZER_KERNELS=numba, and where the code
cannot be built, Numba calls the kernels itself (with_numba.py).
"""

import ctypes
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_tokenizer._kernels import objects

NO_MEMORY = -(1 << 63)
"""What the machine code returns when memory ran out."""
declared: list[Callable[..., Any]] = []
"""All kernels, as Python functions."""


@dataclass(frozen=True)
class Array:
    """A kind of contiguous array."""

    dtype: np.dtype[Any]
    dimensions: int = 1


Uint8s, Uint16s, Uint32s, Uint64s = (Array(np.dtype(f"uint{bits}")) for bits in (8, 16, 32, 64))
Int64s, Int64Rows = Array(np.dtype(np.int64)), Array(np.dtype(np.int64), 2)
Kind = Any
"""What a parameter takes: int; np.uint64; a NamedTuple of addresses; an Array; a tuple of Arrays; or None."""


def compiled(function):  # type: ignore[no-untyped-def]
    """Declare a kernel that other kernels call."""
    declared.append(function)
    return function


def kernel(file: str, apart: bool = False) -> "Callable[[Callable[..., Any]], Kernel]":
    """Declare a kernel that Python calls.

    Args:
        file: the object file it is in (`objects.MODULES`), with others that are compiled and loaded together.
        apart: whether its variants but the first have files of their own, since they take long to compile and are
            seldom called.
    """
    return lambda function: Kernel(compiled(function), file, apart)


class Kernel:
    """A kernel that Python calls.

    Where a parameter is annotated with a list of kinds, the kernel has a variant for each.
    """

    def __init__(self, function: Callable[..., Any], file: str, apart: bool) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self._file, self._apart = file, apart
        kinds = [kind for name, kind in function.__annotations__.items() if name != "return"]
        self.kinds: list[list[Kind]] = [kind if isinstance(kind, list) else [kind] for kind in kinds]
        self._run: dict[tuple[Kind, ...], Callable[..., int]] = {}

    def variants(self) -> Iterator[tuple[str, str, tuple[Kind, ...]]]:
        """Of each variant the object file, the name in it, and the kinds of the parameters."""
        module = self.function.__module__.rpartition(".")[2]
        for i, kinds in enumerate(itertools.product(*self.kinds)):
            name = f"{module}_{self.function.__name__}_{i}"
            yield f"{self._file}-{name}" if self._apart and i else self._file, name, kinds

    def __call__(self, *arguments: Any) -> Any:
        """Run it, without the interpreter's lock.

        Raises:
            MemoryError: when memory ran out.
        """
        numbers: list[int] = []
        kinds = tuple([_take(value, kinds, numbers) for value, kinds in zip(arguments, self.kinds, strict=True)])
        run = self._run.get(kinds) or self._loaded(kinds)
        if run is None:
            from lm_tokenizer._kernels.with_numba import dispatcher

            return dispatcher(self.function)(*arguments)
        result = run(*numbers)
        if result == NO_MEMORY:
            raise MemoryError
        return result

    def _loaded(self, kinds: tuple[Kind, ...]) -> Callable[..., int] | None:
        """The machine code of a variant; None where Numba is to call the kernel."""
        file, name = next((file, name) for file, name, known in self.variants() if known == kinds)
        address_of = load(file)
        if address_of is None:
            return None
        numbers = [ctypes.c_int64] * sum(map(numbers_of, kinds))
        run = self._run[kinds] = ctypes.CFUNCTYPE(ctypes.c_int64, *numbers)(address_of(name))
        return run


def load(file: str, progress: bool = True) -> Callable[[str], int] | None:
    """The addresses of the kernels in an object file by their names; None where Numba is to call them.

    Args:
        progress: whether compiling them, where that must come first, shows a bar on a terminal.
    """
    if objects.by_numba():
        return None
    try:
        return objects.load(file, progress)
    except objects.BuildError as error:
        warnings.warn(f"{error}; Numba calls them instead, and takes seconds to start", stacklevel=3)
        return None


def numbers_of(kind: Kind) -> int:
    """How many numbers a parameter is to the machine code."""
    if isinstance(kind, Array):
        return 1 + kind.dimensions
    if isinstance(kind, tuple):
        return sum(map(numbers_of, kind))
    if kind is None:
        return 0
    return len(getattr(kind, "_fields", (0,)))


def _take(value: Any, kinds: list[Kind], numbers: list[int]) -> Kind:
    """Append the numbers that an argument is to the machine code; its kind."""
    if isinstance(value, np.ndarray):
        dtype, dimensions = value.dtype, value.ndim
        for kind in kinds:
            if isinstance(kind, Array) and kind.dtype == dtype and kind.dimensions == dimensions:
                if not value.flags.c_contiguous:
                    break
                numbers.append(value.ctypes.data)
                numbers.extend(value.shape)
                return kind
        raise TypeError(f"a kernel takes {kinds}, contiguous, not {dtype} of {dimensions} dimensions")
    if isinstance(value, tuple):
        if kinds[-1] is type(value):
            numbers.extend(value)
            return kinds[-1]
        return tuple(_take(item, [kind], numbers) for item, kind in zip(value, kinds[-1], strict=True))
    if value is None:
        return None
    numbers.append(int(value))
    return kinds[0]
