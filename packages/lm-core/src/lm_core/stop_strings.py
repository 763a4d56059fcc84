"""Stop strings in a text that comes in deltas: what may be the beginning of one waits for its end."""

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string that is complete; the stop string itself is not let through."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """The text that is sure not to be in a stop string."""
        self._held += text
        # The one that ends first, however the text is cut into deltas; of two, the longer.
        ends = [(at + len(s), at) for s in self._strings if (at := self._held.find(s)) >= 0]
        if ends:
            self.found = True
            return self._release(min(ends)[1], "")
        return self._release(len(self._held) - self._open())

    def finish(self) -> str:
        """Return the held-back text: no stop string follows."""
        return self._release(len(self._held))

    def _release(self, end: int, left: str | None = None) -> str:
        sure, self._held = self._held[:end], self._held[end:] if left is None else left
        return sure

    def _open(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = min(len(self._held), max(map(len, self._strings), default=1) - 1)
        return next((n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self._strings)), 0)
