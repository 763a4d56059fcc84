"""The fastest of several ways: found once, not one slower than the plain one, and never by time for fixed bits."""

from collections.abc import Callable

import pytest
import torch

from lm_torch.kernels import fastest
from lm_torch.kernels.fastest import by_the_fastest


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What each way takes, by name; and no ways found before."""
    times: dict[str, float] = {}
    monkeypatch.setattr(fastest, "_found", {})
    monkeypatch.setattr(fastest, "milliseconds", lambda way: times[way()])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return times


def ways(*names: str) -> dict[str, Callable[[], str]]:
    return {name: lambda name=name: name for name in names}


def fails() -> str:
    raise RuntimeError("out of resource: shared memory\nmore of it")


@pytest.mark.parametrize(
    ("times", "expected"), [((3.0, 2.0, 1.0), "c"), ((1.0, 2.0, 3.0), "a"), ((1.0, 0.995, 2.0), "a")]
)
def test_the_plain_way_is_left_for_a_faster_one_alone(
    times: tuple[float, ...], expected: str, clock: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    clock |= dict(zip("abc", times, strict=True))
    assert by_the_fastest("a product", 1, ways(*"abc")) == expected
    shown = capsys.readouterr()
    assert f"a product: {expected} (a {times[0]:.3f} ms" in shown.out + shown.err
    clock |= {"a": 9.0, "b": 9.0, "c": 9.0}
    assert by_the_fastest("a product", 1, ways(*"abc")) == expected
    assert not "".join(capsys.readouterr()), "it is timed and reported once"


def test_a_way_that_does_not_work_is_left_out(clock: dict[str, float], capsys: pytest.CaptureFixture[str]) -> None:
    clock |= {"a": 2.0, "c": 1.0}
    assert by_the_fastest("a product", 1, {**ways("a"), "b": fails, **ways("c")}) == "c"
    assert "b does not work here (out of resource: shared memory)" in "".join(capsys.readouterr())


def test_a_plain_way_that_fails_is_an_error(clock: dict[str, float]) -> None:
    with pytest.raises(RuntimeError, match="out of resource"):
        by_the_fastest("a product", 1, {"a": fails, **ways("b")})


def test_a_way_for_which_there_is_no_memory_is_not_left_out_for_good(clock: dict[str, float]) -> None:
    """It needs no more than the plain way, so the step would not fit either."""

    def full() -> str:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        by_the_fastest("a product", 1, {**ways("a"), "b": full})
    assert not fastest._found


def test_nothing_is_timed_in_a_fixed_order_or_while_a_graph_is_recorded(
    clock: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        assert by_the_fastest("a product", 1, ways(*"ab")) == "a"
        assert by_the_fastest("a product", 1, ways(*"ab"), "b") == "b"
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert by_the_fastest("a product", 1, ways(*"ab")) == "a"
    assert not fastest._found
