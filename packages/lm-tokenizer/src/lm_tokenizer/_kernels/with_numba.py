"""The kernels as Numba's own functions, which it compiles where they are first called and keeps on disk itself."""

import sys
from collections.abc import Callable
from typing import Any

import numba

from lm_tokenizer._kernels import instructions, objects
from lm_tokenizer._kernels.compiled import Kernel, declared
from lm_tokenizer._kernels.intrinsics import Named

_dispatchers: dict[Callable[..., Any], Any] = {}


def dispatcher(function: Callable[..., Any], **options: Any) -> Any:
    """Numba's function for a kernel; the options are those of all kernels.

    What kernels name, which is other kernels and instructions, is replaced in their modules by what Numba knows.
    """
    if function not in _dispatchers:
        for one in declared:
            if one not in _dispatchers:
                _dispatchers[one] = _compiled(one, options)
        package = objects.__package__
        for module in [module for name, module in sys.modules.items() if name.startswith(package + ".")]:
            for name, value in vars(module).copy().items():
                if isinstance(value, Named):
                    setattr(module, name, getattr(instructions, value.name))
                elif isinstance(value, Kernel):
                    setattr(module, name, _dispatchers[value.function])
                elif getattr(value, "__hash__", None) and value in _dispatchers:
                    setattr(module, name, _dispatchers[value])
    return _dispatchers[function]


def _compiled(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    folder = objects.folder()
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder or before)
    try:
        cached = folder is not None and not options
        return numba.njit(function, cache=cached, nogil=True, error_model="numpy", **options)
    finally:
        numba.config.CACHE_DIR = before
