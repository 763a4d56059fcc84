"""Continuing texts, several rows at a time: each ends by itself, and its text is shown as it comes.

    Generation.step --id of each row--> deltas --whole characters--> StopStrings --text that is sure--> shown, and kept

Nothing here knows a framework or a tokenizer: a `Generation` over any decoder will do, and any `TextDeltas`.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lm_core.sampling import Generation
from lm_core.stop_strings import StopStrings

Reason = Literal["length", "end_of_text", "stop", "interrupted"]


class TextDeltas(Protocol):
    """Ids of one row -> text, a whole number of characters at a time."""

    def feed(self, token_id: int, /) -> str:
        """The text that one more id completes."""

    def finish(self) -> str:
        """The rest, where a character is left incomplete."""


@dataclass(frozen=True)
class Ending:
    """When a continuation ends."""

    max_new_tokens: int
    eos_ids: Collection[int] = ()
    """The ids at any of which a text ends; they are not part of the text."""
    stop: tuple[str, ...] = ()
    """Strings that end a text; they are not part of it."""


@dataclass
class Continuation:
    """Result of one row."""

    ids: list[int] = field(default_factory=list)
    """All ids, that of the end of text among them."""
    text: str = ""
    reason: Reason = "interrupted"
    seconds: float = 0.0
    """From the first id of the prompt that was read to the last one that was drawn."""


Show = Callable[[int, str], None]
"""Takes a row and the text that has been added to it."""


def continue_rows(
    begin: Callable[[], Generation],
    deltas: Sequence[TextDeltas],
    ending: Ending,
    show: Show = lambda row, text: None,
) -> list[Continuation]:
    """Continue every row until it ends. Ctrl-C ends all of them where they are, with the reason "interrupted".

    Args:
        begin: makes the generation, which reads the prompts; that is part of the time.
        deltas: turns the ids of each row into text.
        ending: when a row ends.
        show: is called with text as soon as it is sure.
    """
    rows = [_Row(number, Continuation(), of_row, ending, show) for number, of_row in enumerate(deltas)]
    started = time.perf_counter()
    try:
        generation = begin()
        while generation.active:
            drawn = generation.step()
            for number, token_id in drawn.items():
                rows[number].take(token_id)
                rows[number].continuation.seconds = time.perf_counter() - started
            generation.end([number for number in drawn if rows[number].ended])
    except KeyboardInterrupt:
        for row in rows:
            if not row.ended:
                row.end("interrupted")
    return [row.continuation for row in rows]


class _Row:
    """One text on its way."""

    def __init__(self, number: int, continuation: Continuation, deltas: TextDeltas, ending: Ending, show: Show) -> None:
        self.number, self.continuation, self.deltas, self.ending = number, continuation, deltas, ending
        self.stops, self.show, self.ended = StopStrings(ending.stop), show, False

    def take(self, token_id: int) -> None:
        """One more id."""
        ids = self.continuation.ids
        ids.append(token_id)
        if token_id in self.ending.eos_ids:
            self.end("end_of_text")
            return
        self._add(self.stops.feed(self.deltas.feed(token_id)))
        if self.stops.found:
            self.ended, self.continuation.reason = True, "stop"
        elif len(ids) == self.ending.max_new_tokens:
            self.end("length")

    def end(self, reason: Reason) -> None:
        """No id follows: let go of what was held back."""
        self._add(self.stops.feed(self.deltas.finish()))
        if self.stops.found:
            reason = "stop"
        else:
            self._add(self.stops.finish())
        self.ended, self.continuation.reason = True, reason

    def _add(self, text: str) -> None:
        if text:
            self.continuation.text += text
            self.show(self.number, text)
