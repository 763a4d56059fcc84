"""The kernels' machine code on disk: where it is kept, how it is loaded, and the process that compiles it.

    kernels --build.py, in a process of its own--> object file --LLVM's loader--> addresses

A file belongs to the content of all kernel files (its folder) and to the processor, the compiler and their settings
(its name), so a cache that machines share gives none of them instructions that it lacks. It begins with the hash of its
code: one that is cut off or damaged is compiled again. It is written under another name and renamed, so processes may
do all this at the same time.
"""

import atexit
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from lm_tokenizer.progress import progress_bar

MODULES = {"encoding": ("encode", "cache", "merge", "decode", "parts"), "training": ("count", "layout", "learn")}
"""The object files, and the modules of the kernels in each; a file "training-..." has one kernel of "training"."""
MAGIC = b"lm-tokenizer kernels\n"
_HERE = Path(__file__).parent


class BuildError(Exception):
    """The kernels could not be compiled."""


def by_numba() -> bool:
    """Whether Numba is asked to call the kernels itself."""
    return os.environ.get("LM_TOKENIZER_KERNELS") == "numba"


@cache
def folder() -> Path | None:
    """Where the machine code is kept: beside the kernels, or in the user's cache where the package is read-only.

    None if neither can be written.
    """
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_HERE.glob("*.py")))).hexdigest()[:16]
    try:
        system = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:  # a user without a home
        system = None
    roots = [os.environ.get("NUMBA_CACHE_DIR"), _HERE / "__pycache__", os.environ.get("XDG_CACHE_HOME") or system]
    for root in filter(None, roots):
        kept = Path(root) / f"lm-tokenizer-{digest}"
        try:
            kept.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(kept, os.W_OK | os.X_OK):
            return kept
    return None


@cache
def _target() -> str:
    """A hash of the processor, the compiler, and its settings."""
    import llvmlite
    from llvmlite import binding

    numba = importlib.util.find_spec("numba")  # its version, without importing it
    version = Path(numba.origin or "").with_name("_version.py") if numba else None
    settings = sorted(f"{name}={value}" for name, value in os.environ.items()
                      if name.startswith("NUMBA_") and name != "NUMBA_CACHE_DIR")  # fmt: skip
    facts = [
        binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten(),
        llvmlite.__version__, version.read_text() if version and version.exists() else "", sys.version, *settings,
    ]  # fmt: skip
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def path_of(file: str) -> Path | None:
    """Where an object file is kept; None where nothing can be kept."""
    kept = folder()
    return kept / f"{file}-{_target()}.o" if kept else None


def read(path: Path) -> bytes | None:
    """The machine code in a file; None if it is not there or not whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    start = len(MAGIC) + 32
    code = content[start:]
    return code if content[:start] == MAGIC + hashlib.sha256(code).digest() else None


def write(path: Path, code: bytes) -> None:
    """Keep machine code in a file."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    with os.fdopen(handle, "wb") as file:
        file.write(MAGIC + hashlib.sha256(code).digest() + code)
    Path(name).replace(path)


def load(file: str, progress: bool = True) -> Callable[[str], int]:
    """The addresses of the kernels in an object file by their names; they are compiled first if need be.

    Args:
        progress: whether compiling shows a bar, on a terminal.

    Raises:
        BuildError: when they cannot be compiled, which is tried once.
    """
    if file not in _loaded:
        try:
            _loaded[file] = _addresses(_code_of(file, progress))
        except BuildError as error:
            _loaded[file] = error
    known = _loaded[file]
    if isinstance(known, BuildError):
        raise known
    return known


_loaded: "dict[str, Callable[[str], int] | BuildError]" = {}


def _addresses(code: bytes) -> Callable[[str], int]:
    """The addresses of the functions of an object file, which is loaded for as long as the process lasts."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine.get_function_address  # type: ignore[no-any-return]


def _code_of(file: str, progress: bool) -> bytes:
    path = path_of(file)
    code = read(path) if path else None
    if code is not None:
        return code
    if path is not None:
        return _built(file, path, progress)
    with tempfile.TemporaryDirectory() as temporary:
        return _built(file, Path(temporary) / "kernels.o", progress)


def is_ready(file: str) -> bool:
    """Whether the kernels of an object file can be loaded at once; if not, they are compiled meanwhile."""
    if file in _loaded or by_numba():
        return True
    if file not in _building:
        path = path_of(file)
        if path is None or read(path) is not None:
            return path is not None
        try:
            _building[file] = _start(file, path)
        except OSError:
            return True  # loading them says why not
    return _building[file].poll() is not None


_building: "dict[str, subprocess.Popen[str]]" = {}


@atexit.register
def _leave() -> None:
    """Let what is being compiled be compiled: later processes have it."""
    for process in _building.values():
        if process.stdout:
            process.stdout.close()
        process.returncode = 0  # or Python warns that nobody waited


def _start(file: str, path: Path) -> "subprocess.Popen[str]":
    """The process that compiles the kernels of an object file."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "lm_tokenizer._kernels.build", file, str(path)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _built(file: str, path: Path, progress: bool) -> bytes:
    """Compile the kernels of an object file, unless that has begun, and wait; the machine code."""
    problem = ""
    try:
        with (
            _building.pop(file, None) or _start(file, path) as process,
            progress_bar(progress, desc="compiling the tokenizer, once", unit="kernel") as bar,
        ):
            for line in process.stdout or ():
                done = re.fullmatch(r"(\d+) of (\d+)\n", line)
                if done:
                    bar.total = int(done[2])
                    bar.update(int(done[1]) - bar.n)
                problem = line.strip() or problem
    except OSError as error:
        problem = str(error)
    code = read(path)
    if code is None:
        raise BuildError(f"the tokenizer's kernels could not be compiled: {problem}")
    return code
