"""Text out of ids: stop strings, incomplete characters, rows that end by themselves."""

from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from lm_core.sampling import Generation, SamplingConfig
from lm_tokenizer import Tokenizer
from lm_tokenizer.adapters import TextTokenizer, train_tokenizer
from transformerlm.continuation import Continuation, Ending, continue_rows
from transformerlm.text_stream import DecodedAgain, StopStrings, pieces_of


class Scripted:
    """A decoder that draws what it is told, row by row."""

    def __init__(self, rows: Sequence[Sequence[int]], interrupt_at: int | None = None) -> None:
        self.rows, self.drawn, self.interrupt_at = [list(row) for row in rows], 0, interrupt_at
        self.read: list[list[int]] = []

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int]) -> None:
        self.read.append(list(ids))

    def next_ids(self, uniforms: Sequence[float], sampling: SamplingConfig) -> list[int]:
        if self.drawn == self.interrupt_at:
            raise KeyboardInterrupt
        self.drawn += 1
        return [row[self.drawn - 1] for row in self.rows]

    def room(self, row: int) -> int:
        return 1

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]


def written(tokenizer: TextTokenizer, decoder: Scripted, ending: Ending, shown: list[str]) -> list[Continuation]:
    prompts = [[1]] * len(decoder.rows)

    def show(row: int, text: str) -> None:
        shown[row] += text

    shown += [""] * len(prompts)
    return continue_rows(
        lambda: Generation(decoder, prompts, 64, 0, SamplingConfig()), prompts, tokenizer, ending, show
    )


# Stop strings


@pytest.mark.parametrize(
    ("stops", "text", "kept"),
    [
        (["END"], "before END after", "before "),
        (["END"], "before EN", "before EN"),
        (["END", "N"], "an END", "an E"),
        (["abc", "b"], "xabc", "xa"),  # the one that is complete first
        (["bc", "abc"], "xabc", "x"),  # of two that end at the same place, the longer
        (["aab"], "aaab", "a"),
        (["\n\n"], "a\nb\n\nc", "a\nb"),
        ([""], "nothing stops", "nothing stops"),
        ([], "nothing stops", "nothing stops"),
    ],
)
def test_a_stop_string_ends_the_text_however_it_comes_in_pieces(stops: list[str], text: str, kept: str) -> None:
    for size in range(1, len(text) + 1):
        filter_ = StopStrings(stops)
        out = ""
        for start in range(0, len(text), size):
            out += filter_.feed(text[start : start + size])
            if filter_.found:
                break
        else:
            out += filter_.finish()
        assert out == kept
        assert filter_.found == (kept != text)


def test_only_what_may_begin_a_stop_string_waits() -> None:
    filter_ = StopStrings(["<end>", "e!"])
    assert [filter_.feed(piece) for piece in ("a", "<", "en", "x", "<e", "nd")] == ["a", "", "", "<enx", "", ""]


# Characters


def test_an_incomplete_character_waits_and_all_pieces_are_the_text(tokenizer: Tokenizer) -> None:
    text = "naïve 東京 \U0001f600 fox 叫"  # the last character is in no merge: three ids
    ids = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, [1])
    out = [pieces.feed(token_id) for token_id in ids]
    assert "".join(out) + pieces.finish() == text
    assert not any("�" in piece for piece in out)
    assert "" in out


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_a_tokenizer_of_another_kind_gives_its_text_in_pieces_too(kind: str) -> None:
    text = "a fox and a dog\nand a fox\n" * 5
    tokenizer = train_tokenizer(kind, [text])
    ids = [int(i) for i in tokenizer.encode(text)]
    pieces = pieces_of(tokenizer, ids[:10])
    assert isinstance(pieces, DecodedAgain)
    assert (
        "".join(map(pieces.feed, ids[10:])) + pieces.finish()
        == tokenizer.decode(ids)[len(tokenizer.decode(ids[:10])) :]
    )


def test_a_character_in_three_ids_waits_where_texts_are_decoded_as_a_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a 叫 b")
    pieces = DecodedAgain(tokenizer, tokenizer.encode("before"))
    assert "".join(map(pieces.feed, ids)) == "a 叫 b"


# Rows


def test_every_row_ends_by_itself_and_the_others_go_on(tokenizer: Tokenizer) -> None:
    eos = tokenizer.eos_id
    assert eos is not None
    texts = ["the quick brown fox", "a lazy dog, STOP and more and more", "over"]
    rows = [[*tokenizer.encode(text), eos, *[5] * 60] for text in texts]
    shown: list[str] = []
    found = written(tokenizer, Scripted(rows), Ending(40, eos, (" STOP",)), shown)
    assert [row.text for row in found] == [texts[0], "a lazy dog,", texts[2]] == shown
    assert [row.reason for row in found] == ["end_of_text", "stop", "end_of_text"]
    assert found[0].ids[-1] == eos
    assert [len(row.ids) for row in found[::2]] == [len(tokenizer.encode(texts[i])) + 1 for i in (0, 2)]
    assert all(0 < row.seconds < 5 for row in found)


def test_a_text_ends_at_its_length_with_what_was_held_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("abc <en")
    shown: list[str] = []
    [row] = written(tokenizer, Scripted([ids]), Ending(len(ids), None, ("<end>",)), shown)
    assert (row.text, row.reason, shown) == ("abc <en", "length", ["abc <en"])


def test_the_end_of_text_is_passed_over_where_it_is_no_end(tokenizer: Tokenizer) -> None:
    assert tokenizer.eos_id is not None
    ids = [*tokenizer.encode("a"), tokenizer.eos_id, *tokenizer.encode("b")]
    [row] = written(tokenizer, Scripted([ids]), Ending(3), [])
    assert (row.text, row.reason) == ("a<|endoftext|>b", "length")


def test_an_incomplete_character_at_the_end_is_a_replacement(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("叫")[:2]
    [row] = written(tokenizer, Scripted([ids]), Ending(2), [])
    assert row.text == "�"


def test_ctrl_c_ends_all_rows_with_what_they_have(tokenizer: Tokenizer) -> None:
    rows = [tokenizer.encode("abcdefgh"), [tokenizer.eos_id or 0, *[5] * 20]]
    shown: list[str] = []
    found = written(tokenizer, Scripted(rows, interrupt_at=3), Ending(8, tokenizer.eos_id, ("cdx",)), shown)
    assert [row.reason for row in found] == ["interrupted", "end_of_text"]
    assert [row.text for row in found] == shown == [tokenizer.decode(rows[0][:3]), ""]


def test_text_is_shown_as_it_comes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    ids = tokenizer.encode("one two three four")
    lengths: list[int] = []
    prompts = [[1]]
    text = ""

    def show(row: int, piece: str) -> None:
        nonlocal text
        text += piece
        lengths.append(len(text))

    decoder = Scripted([ids])
    continue_rows(
        lambda: Generation(decoder, prompts, 64, 0, SamplingConfig()), prompts, tokenizer, Ending(len(ids)), show
    )
    assert text == "one two three four"
    assert len(lengths) == len(ids)
    assert all(a < b for a, b in pairwise(lengths))
