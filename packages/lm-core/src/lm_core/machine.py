"""The memory of this machine, as far as this process may use it, and the most that it has used."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")


def machine_memory() -> int | None:
    """Bytes that the process could have at most: memory and swap, or a container's limit; None if not known."""
    return min(_limits(), default=None)


def peak_memory() -> int:
    """The most bytes that this process has had resident, on the host: what a GPU holds is not in it."""
    # On Linux ru_maxrss survives exec: a child of a big process starts with its parent's peak. VmHWM starts again.
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _limits() -> Iterator[int]:
    swap = _swap()
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        physical = 0
    if physical > 0:
        # macOS adds swap as it is needed; a run that needs more than that again ends nowhere.
        yield 2 * physical if sys.platform == "darwin" else physical + swap
    limit = _number(_CGROUP / "memory.max")
    if limit is not None:
        more = _number(_CGROUP / "memory.swap.max")
        yield limit + (swap if more is None else more)
    limit = _number(_CGROUP / "memory" / "memory.limit_in_bytes")  # the first version, which writes 2^63 for no limit
    if limit is not None:
        yield limit + swap


def _swap() -> int:
    try:
        lines = _MEMINFO.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("SwapTotal:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None
