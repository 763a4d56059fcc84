"""A run in two parts, or killed anywhere, is the run in one."""

import itertools
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lm_core.errors import NonFiniteError

from .loop_bench import Bench, Crash


def test_a_run_that_stopped_early_does_not_go_on_when_resumed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, eval_every=1, early_stop_patience=1)
    bench.trainer.val_losses = iter([1.0, 2.0])
    bench.go()
    again = Bench(tmp_path, eval_every=1, early_stop_patience=1)
    again.resume()
    assert again.go().step == 2
    assert again.events == []


def test_a_run_that_stopped_early_goes_on_when_it_is_given_more_patience(tmp_path: Path) -> None:
    bench = Bench(tmp_path, eval_every=1, early_stop_patience=1, max_steps=4)
    bench.trainer.val_losses = iter([1.0, 2.0])
    bench.go()
    again = Bench(tmp_path, eval_every=1, early_stop_patience=9, max_steps=4)
    again.resume()
    again.trainer.val_losses = iter([2.0, 2.0])
    assert again.go().step == 4


def test_a_run_knows_which_checkpoint_each_one_follows(tmp_path: Path) -> None:
    first = Bench(tmp_path, save_every=3, max_steps=5)
    first.go()
    then = Bench(tmp_path, save_every=3)
    then.resume()
    found = then.saves.newest(pytest.fail)
    assert found is not None
    then.extras = {"parent": found.path.stem}
    then.go()
    by_step = {c.step: c for c in map(then.saves.read, then.saves.folder.glob("*.metadata"))}
    assert sorted(by_step) == [3, 5, 6, 9, 10]
    assert by_step[3].metadata["parent"] is None
    for before, after in itertools.pairwise(sorted(by_step)):
        assert by_step[after].metadata["parent"] == by_step[before].path.stem


def test_wherever_a_background_save_crashes_the_run_goes_on_from_a_whole_checkpoint_as_if_never_killed(
    tmp_path: Path,
) -> None:
    options = {"max_steps": 4, "save_every": 2, "eval_every": 1, "log_every": 1, "save_best": True}
    whole = Bench(tmp_path / "whole", **options)
    whole.saves.keep = 1
    whole.go()
    for fail_at in itertools.count(1):
        killed = Bench(tmp_path / str(fail_at), **options)
        killed.saves.keep = 1
        with pytest.MonkeyPatch.context() as patch:
            calls = itertools.count(1)
            for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
                patch.setattr(owner, name, crashing(getattr(owner, name), calls, fail_at))
            try:
                killed.go()
            except Crash:
                pass
            else:
                break
        again = Bench(tmp_path / str(fail_at), **options)
        again.saves.keep = 1
        if list(again.saves.folder.glob("*.metadata")):
            again.resume()
        again.go()
        assert again.records() == whole.records()
        assert again.trainer.w.tobytes() == whole.trainer.w.tobytes()
        assert set(again.saves.steps()) >= set(whole.saves.steps()), "at most, something older was not yet removed"
    assert fail_at > 20


def crashing(original: Callable[..., Any], calls: Iterator[int], fail_at: int) -> Callable[..., Any]:
    """The function, but for the call with which the thread that saves comes to its end."""

    def called(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() and next(calls) == fail_at:
            raise Crash
        return original(*args, **kwargs)

    return called


@pytest.mark.parametrize("cut", [1, 3, 4, 7, 9])
@pytest.mark.parametrize("save_best", [False, True])
def test_a_run_in_two_parts_has_the_records_and_the_weights_of_one_in_one(
    tmp_path: Path, cut: int, save_best: bool
) -> None:
    options = {"eval_every": 4, "log_every": 2, "early_stop_patience": 5, "save_best": save_best, "log_norms": True}
    whole = Bench(tmp_path / "whole", **options)
    expected = whole.go()
    first = Bench(tmp_path / "parts", **options)
    first.trainer.interrupt_at = cut
    first.go()
    second = Bench(tmp_path / "parts", **options)
    second.resume()
    state = second.go()
    assert second.records() == whole.records()
    assert second.at("step") == list(range(cut + 1, 11))
    assert second.trainer.w.tobytes() == whole.trainer.w.tobytes()
    assert {**asdict(state), "seconds": 0} == {**asdict(expected), "seconds": 0}
    assert state.seconds > first.state.seconds
    if save_best:
        best = [bench.saves.best(pytest.fail) for bench in (whole, second)]
        assert [found and (found.step, found.metadata["val_loss"]) for found in best] == [
            (state.best_step, state.best_val_loss)
        ] * 2


def test_a_run_killed_after_a_save_loses_only_what_came_after_it(tmp_path: Path) -> None:
    whole = Bench(tmp_path / "whole", save_every=4, log_every=1)
    whole.go()
    killed = Bench(tmp_path / "killed", save_every=4, log_every=1)
    killed.trainer.bad = {7: {"loss_nats": math.nan}}
    with pytest.raises(NonFiniteError):
        killed.go()
    again = Bench(tmp_path / "killed", save_every=4, log_every=1)
    again.resume()
    assert again.state.step == 4
    again.go()
    assert again.records() == whole.records()


def test_a_finished_run_that_is_resumed_does_nothing(tmp_path: Path) -> None:
    Bench(tmp_path).go()
    again = Bench(tmp_path)
    again.resume()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again.go()
    assert again.events == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
