"""The memory of this machine, as far as this process may use it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def machine_memory() -> int | None:
    """Bytes that the process could have at most: memory and swap, or a container's limit; None if not known."""
    return min(_limits(), default=None)


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
