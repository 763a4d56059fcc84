"""Counts of skipped records and replaced characters, by reason and file."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lm_pipeline.text.documents import REPLACED, Flaw


@dataclass
class Flaws:
    """Counts of flaws, in the order in which they were met first."""

    counts: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    """(reason, file) -> how many, and where the first one is."""

    def add(self, flaw: Flaw, file: str) -> None:
        """Count one."""
        self.include(flaw.reason, file, flaw.count, flaw.where)

    def include(self, reason: str, file: str, count: int, first: str) -> None:
        """Count several of a kind."""
        before, where = self.counts.get((reason, file), (0, first))
        self.counts[reason, file] = before + count, where

    def lines(self) -> Iterator[str]:
        """The summary: a line for what was skipped, and one for what was replaced."""
        skipped = [entry for entry in self.counts.items() if entry[0][0] != REPLACED]
        replaced = [entry for entry in self.counts.items() if entry[0][0] == REPLACED]
        if skipped:
            said = (f"{count:,} {reason} in {file} (first: {where})" for (reason, file), (count, where) in skipped)
            yield f"skipped {counted(_total(skipped), 'record')}: {_listed(said)}"
        if replaced:
            said = (f"{count:,} in {file} (first: {where})" for (_, file), (count, where) in replaced)
            yield f"replaced {counted(_total(replaced), 'character')} of what is not Unicode by U+FFFD: {_listed(said)}"


def counted(number: int, what: str) -> str:
    """`1 record`, `2 records`."""
    return f"{number:,} {what}" + "s" * (number != 1)


def _total(entries: Iterable[tuple[tuple[str, str], tuple[int, str]]]) -> int:
    return sum(count for _, (count, _) in entries)


def _listed(said: Iterable[str], most: int = 20) -> str:
    texts = list(said)
    return "; ".join(texts[:most]) + (f"; and in {len(texts) - most:,} more files" if len(texts) > most else "")
