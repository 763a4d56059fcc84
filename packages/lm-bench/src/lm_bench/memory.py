"""The most memory that this process has had on the host: what a GPU holds is not in it."""

from dataclasses import dataclass

from lm_core.machine import peak_memory

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
    return peak_memory() / MIB
