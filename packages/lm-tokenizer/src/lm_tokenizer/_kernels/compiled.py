"""How the kernels are compiled, and where the machine code is kept.

Numba renews a cached function when its own file changes, not when a file it calls into does; so the code is kept in a
folder named after the content of all kernel files: beside them, or in the user's cache where the package is read-only,
or nowhere if neither can be written.
"""

import hashlib
import os
import sys
from pathlib import Path

import numba

_HERE = Path(__file__).parent


def _cache_folder() -> str | None:
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_HERE.glob("*.py")))).hexdigest()[:16]
    try:
        system = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:  # a user without a home
        system = None
    roots = [numba.config.CACHE_DIR, _HERE / "__pycache__", os.environ.get("XDG_CACHE_HOME") or system]
    for root in filter(None, roots):
        folder = Path(root) / f"lm-tokenizer-{digest}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return str(folder)
    return None


_FOLDER = _cache_folder()


def is_first_time() -> bool:
    """Whether there is no compiled code yet, so that what comes next takes some seconds more."""
    return _FOLDER is None or next(Path(_FOLDER).rglob("*.nbi"), None) is None


def compiled(function):  # type: ignore[no-untyped-def]
    """Compile a function when it is first called, keep the code on disk, and run it without the interpreter's lock."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _FOLDER or before
    try:
        return numba.njit(function, cache=_FOLDER is not None, nogil=True, error_model="numpy")
    finally:
        numba.config.CACHE_DIR = before
