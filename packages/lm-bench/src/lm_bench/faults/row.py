"""One row of the campaign's table: what was done, and what came of it."""

from dataclasses import dataclass, field


@dataclass
class Row:
    """The trials of one kind on one backend."""

    name: str
    backend: str
    trials: int = 0
    lost_saves: int = 0
    """Checkpoints that the run had announced, and which were not found afterwards."""
    resumed: int = 0
    """Runs that were resumed to their end."""
    same: int = 0
    """Those of them that are equal to the uninterrupted run."""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    """Each with what it takes to see it again."""
    notes: list[str] = field(default_factory=list)
    """Other measurements."""
    skipped: str = ""
    """Why the row was skipped."""

    @property
    def sound(self) -> bool:
        """Whether the promise held."""
        return not self.violations and not self.lost_saves and self.resumed == self.same
