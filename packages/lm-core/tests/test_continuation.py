"""Rows of text that end by themselves, over a decoder that draws what it is told and ids that are bytes."""

import codecs
from collections.abc import Collection, Sequence
from itertools import pairwise

from lm_core.config import SamplingConfig
from lm_core.continuation import Continuation, Ending, Show, continue_rows
from lm_core.sampling import Generation

EOS = 256


class Scripted:
    """A decoder that draws what it is told, row by row."""

    ids_per_call = 1

    def __init__(self, rows: Sequence[Sequence[int]], interrupt_at: int | None = None) -> None:
        self.rows, self.drawn, self.interrupt_at = [list(row) for row in rows], 0, interrupt_at

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int]) -> None:
        pass

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        if self.drawn == self.interrupt_at:
            raise KeyboardInterrupt
        self.drawn += 1
        return [[row[self.drawn - 1] for row in self.rows]]

    def room(self, row: int) -> int:
        return 1

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]


class Bytes:
    """Ids are bytes of UTF-8, and one more is the end of text."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int, /) -> str:
        return "<eos>" if token_id == EOS else self._decoder.decode(bytes([token_id]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


def written(decoder: Scripted, ending: Ending, show: Show) -> list[Continuation]:
    prompts = [[1]] * len(decoder.rows)
    return continue_rows(
        lambda: Generation(decoder, prompts, 64, 0, SamplingConfig()), [Bytes() for _ in prompts], ending, show
    )


class Shown(dict[int, list[str]]):
    """The deltas of every row, as they come."""

    def __call__(self, row: int, text: str) -> None:
        self.setdefault(row, []).append(text)

    def texts(self) -> list[str]:
        return ["".join(self[row]) for row in sorted(self)]


def test_every_row_ends_by_itself_and_the_others_go_on() -> None:
    texts = ["the quick brown fox", "a lazy dog, STOP and more and more", "over"]
    rows = [[*text.encode(), EOS, *[65] * 60] for text in texts]
    shown = Shown()
    found = written(Scripted(rows), Ending(40, (EOS,), (" STOP",)), shown)
    assert [row.text for row in found] == [texts[0], "a lazy dog,", texts[2]] == shown.texts()
    assert [row.reason for row in found] == ["end_of_text", "stop", "end_of_text"]
    assert [row.ids for row in found[::2]] == [[*texts[i].encode(), EOS] for i in (0, 2)]
    assert all(row.seconds > 0 for row in found)


def test_a_text_ends_at_its_length_with_what_was_held_back() -> None:
    shown = Shown()
    [row] = written(Scripted([b"abc <en"]), Ending(7, (), ("<end>",)), shown)
    assert (row.text, row.reason, shown.texts()) == ("abc <en", "length", ["abc <en"])


def test_the_end_of_text_is_passed_over_where_it_is_no_end() -> None:
    [row] = written(Scripted([[97, EOS, 98]]), Ending(3), Shown())
    assert (row.text, row.reason) == ("a<eos>b", "length")


def test_an_incomplete_character_at_the_end_is_a_replacement() -> None:
    [row] = written(Scripted(["叫".encode()]), Ending(2), Shown())
    assert row.text == "�"


def test_ctrl_c_ends_all_rows_with_what_they_have() -> None:
    rows = [b"abcdefgh", [EOS, *[65] * 20]]
    shown = Shown()
    found = written(Scripted(rows, interrupt_at=3), Ending(8, (EOS,), ("cdx",)), shown)
    assert [row.reason for row in found] == ["interrupted", "end_of_text"]
    assert [row.text for row in found] == ["abc", ""]
    assert shown == {0: ["a", "b", "c"]}


def test_text_is_shown_as_it_comes() -> None:
    text = "one two three four"
    lengths: list[int] = []
    found: list[str] = []

    def show(row: int, delta: str) -> None:
        found.append(delta)
        lengths.append(len("".join(found)))

    written(Scripted([text.encode()]), Ending(len(text)), show)
    assert "".join(found) == text
    assert len(lengths) == len(text)
    assert all(a < b for a, b in pairwise(lengths))
