"""The most memory that this process has had on the host: what a GPU holds is not in it."""

import sys
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True)
class Memory:
    """Resident memory in MiB."""

    imported: float
    """Peak after the imports, before anything is built."""
    peak: float
    """Peak over the whole process."""

    @property
    def added(self) -> float:
        """MiB that model, optimizer and steps add."""
        return self.peak - self.imported


def peak_mib() -> float:
    """The most memory this process has had resident."""
    # On Linux ru_maxrss survives exec: a child of a big process starts with its parent's peak. VmHWM starts again.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / MIB
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
