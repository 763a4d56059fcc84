"""Stop strings, however the text is cut into pieces."""

import pytest

from lm_core.stop_strings import StopStrings


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
