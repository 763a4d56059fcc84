"""Work on a thread of its own: one piece at a time, each told once, and nothing it raises is lost."""

import threading

import pytest

from lm_core.run.writer import Done, Writer


def test_nothing_is_told_until_the_work_has_ended_and_then_once() -> None:
    writer, gate = Writer(), threading.Event()
    assert writer.collect(wait=True) is None
    writer.start(3, lambda: gate.wait(10))
    assert writer.collect(wait=False) is None
    gate.set()
    assert writer.collect(wait=True) == Done(3, None)
    assert writer.collect(wait=True) is None


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_what_the_work_raises_is_told(error: BaseException) -> None:
    def work() -> None:
        raise error

    writer = Writer()
    writer.start(1, work)
    assert writer.collect(wait=True) == Done(1, error)


def test_a_second_piece_of_work_is_refused_until_the_first_is_collected() -> None:
    writer = Writer()
    writer.start(1, lambda: None)
    with pytest.raises(AssertionError, match="not been collected"):
        writer.start(2, lambda: None)
    writer.collect(wait=True)
    writer.start(2, lambda: None)
    assert writer.collect(wait=True) == Done(2, None)
