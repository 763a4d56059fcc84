"""The processes that train one run together: which of them this is, and what they agree on.

    a launcher's environment --a backend's `world`--> World --gather_equal--> what every rank gave, in order

One collective, `gather_equal`, is all that a backend has to bring; the rest is made of it. A rank that ends, however it
does, ends the collectives of the others: they raise `LostRankError` rather than wait for it. So whatever goes wrong on
one rank stops all of them within a step, and nobody has to report it to them.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lm_core.errors import UserError

T = TypeVar("T")
GONE = (
    "rank {} of {}: another rank has ended, so training stops; the last checkpoint is intact, and --resume resumes from"
    " it"
)
"""What a rank says that finds another one gone, of its rank and their number."""


_SHORT = 120
"""Bytes of a message that goes with its length."""


class World:
    """One process alone. A backend's subclass stands for several.

    What is given and shared is JSON.
    """

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that logs and writes."""
        return self.rank == 0

    def gather(self, data: bytes) -> list[bytes]:
        """What each rank gives, in their order; every rank has to call it.

        Raises:
            LostRankError: when a rank has ended.
        """
        if self.size == 1:
            return [data]
        heads = self.gather_equal(len(data).to_bytes(8, "little") + data[:_SHORT].ljust(_SHORT, b"\0"))
        sizes = [int.from_bytes(head[:8], "little") for head in heads]
        longest = max(sizes)
        if longest <= _SHORT:
            return [head[8 : 8 + size] for head, size in zip(heads, sizes, strict=True)]
        return [found[:size] for found, size in zip(self.gather_equal(data.ljust(longest, b"\0")), sizes, strict=True)]

    def gather_equal(self, data: bytes) -> list[bytes]:
        """The same of as many bytes on every rank: what a backend brings."""
        return [data]

    def of_all(self, value: T) -> list[T]:
        """A value of each rank, in their order."""
        if self.size == 1:
            return [value]
        return [json.loads(data) for data in self.gather(json.dumps(value).encode())]

    def any(self, flag: bool) -> bool:
        """Whether any rank's flag is set."""
        return flag if self.size == 1 else any(self.of_all(flag))

    def of_first(self, make: Callable[[], T]) -> T:
        """What the first rank makes, and the others do not.

        Raises:
            UserError: on every rank, when the first one raises it.
        """
        if self.size == 1:
            return make()
        made: Any = None
        try:
            made = {"value": make()} if self.is_first else None
        except UserError as error:
            self.of_all({"error": str(error)})
            raise
        shared: Mapping[str, Any] = self.of_all(made)[0]
        if "error" in shared:
            raise UserError(shared["error"])
        value: T = shared["value"]
        return value

    def first_before_others(self, make: Callable[[], T]) -> T:
        """What each rank makes for itself, the others when the first one is done: it may leave files that they read.

        Raises:
            UserError: on every rank, when the first one raises it.
        """
        if self.size == 1:
            return make()
        made = list[T]()
        self.of_first(lambda: made.append(make()))
        return made[0] if self.is_first else make()

    def check_same(self, things: Mapping[str, str], advice: str) -> None:
        """Refuse ranks that differ.

        Args:
            things: a name -> a hash of what every rank should have alike.
            advice: what to do about it.

        Raises:
            UserError: on every rank, naming what differs, and on which of them.
        """
        every = self.of_all(dict(things))
        for name, ours in every[0].items():
            others = [str(rank) for rank, their in enumerate(every) if their.get(name) != ours]
            if others:
                ranks = f"rank{'s' * (len(others) > 1)} {', '.join(others)}"
                raise UserError(f"{ranks} of {self.size} and rank 0 differ in {name}: {advice}")

    def reports(self, error: BaseException) -> bool:
        """Whether this rank is the one to print an error that ends it, of those that end together."""
        return True

    def remember(self, key: str, value: str) -> None:
        """Leave a word for the ranks that the launcher starts in the place of these when one has died, if it does."""

    def recall(self, key: str) -> str | None:
        """The word that earlier ranks of this job have left; None for none. To be asked for by one rank alone."""
        return None

    def is_lost(self, error: BaseException) -> bool:
        """Whether an error of the framework says that another rank has ended."""
        return False

    def close(self) -> None:
        """Leave the others."""


ALONE = World()
_current = ALONE


def current() -> World:
    """The ranks that this process is one of; itself alone unless `become` has said otherwise."""
    return _current


def become(world: World) -> None:
    """Have this process be one of some ranks."""
    global _current
    _current = world
