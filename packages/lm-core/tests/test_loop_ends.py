"""What ends a run before its last step: values that are not finite, no gain any more, an interrupt."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.errors import NonFiniteError
from lm_core.run.state import stops_early

from .loop_bench import Bench


@pytest.mark.parametrize("name", ["loss_nats", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bad", [1, 4, 5, 6, 7, 9, 10])
def test_a_step_that_is_not_finite_is_named_and_nothing_is_saved_from_it_on(
    tmp_path: Path, bad: int, name: str, value: float
) -> None:
    bench = Bench(tmp_path, log_every=100, save_every=3)
    bench.trainer.bad = {bad: {name: value}, 10: {"loss_nats": math.nan}}
    with pytest.raises(NonFiniteError, match=f"step {bad}: {name if bad < 10 else '.*'} is "):
        bench.go()
    assert bench.at("save") == [step for step in (3, 6, 9) if step < bad]
    assert all(record["step"] < bad for record in bench.records())


def test_weights_that_are_not_finite_are_never_saved_though_every_loss_was(tmp_path: Path) -> None:
    bench = Bench(tmp_path, save_every=3)
    weights = bench.trainer.weights
    bench.trainer.weights = lambda: weights() if bench.trainer.taken < 6 else {"w": np.array([1, np.inf])}  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="step 6: w is not finite; the checkpoint of step 3 is kept"):
        bench.go()
    assert bench.at("save") == [3]


def test_optimizer_state_that_is_not_finite_is_never_saved_either(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trainer.optimizer_state = lambda: {"m": np.array([np.inf])}  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="step 10: m is not finite; no checkpoint was saved"):
        bench.go()


def test_a_validation_loss_that_is_not_finite_stops_the_run_and_is_not_recorded(tmp_path: Path) -> None:
    bench = Bench(tmp_path, eval_every=4, save_every=4)
    bench.trainer.val_losses = iter([1.0, math.nan])
    with pytest.raises(NonFiniteError, match="step 4: validation loss is nan"):
        bench.go()
    assert (bench.at("eval record"), bench.at("save")) == ([1], [])


@pytest.mark.parametrize(
    ("losses", "options", "stops_at"),
    [
        ([5, 4, 4, 4, 0, 0], {"early_stop_patience": 2}, 4),
        ([5, 4, 4, 3, 3, 3, 0], {"early_stop_patience": 2}, 6),
        ([5, 6, 7, 8, 9, 9], {"early_stop_patience": 3}, 4),
        ([5, 4.9, 4.8, 4.7, 0, 0], {"early_stop_patience": 2, "early_stop_min_delta": 0.5}, 3),
        ([5, 4.8, 4.4, 4.4, 4.4, 0], {"early_stop_patience": 2, "early_stop_min_delta": 0.5}, 5),
        ([5, 6, 6, 6, 6, 6], {"early_stop_patience": 2, "early_stop_warmup": 3}, 5),
        ([5, 6, 6, 6, 6, 6], {"early_stop_patience": 0}, 6),
        ([5, 4, 3, 2, 1, 0], {"early_stop_patience": 1}, 6),
    ],
)
def test_it_stops_after_so_many_evaluations_without_a_gain(
    tmp_path: Path, losses: list[float], options: dict[str, Any], stops_at: int
) -> None:
    bench = Bench(tmp_path, eval_every=1, max_steps=len(losses), **options)
    bench.trainer.val_losses = iter(losses)
    state = bench.go()
    assert state.step == stops_at
    assert stops_early(bench.config, state) == (stops_at < len(losses))
    assert bench.at("save") == [stops_at]
    assert (state.first_val_loss, state.last_val_loss) == (losses[0], losses[stops_at - 1])


def test_the_best_loss_is_the_smallest_seen_however_small_the_gain(tmp_path: Path) -> None:
    bench = Bench(tmp_path, eval_every=1, max_steps=3, early_stop_min_delta=0.5)
    bench.trainer.val_losses = iter([5.0, 4.9, 4.8])
    state = bench.go()
    assert (state.best_val_loss, state.best_step) == (4.8, 3)


@pytest.mark.parametrize("step", [1, 4, 5, 10])
def test_an_interrupt_ends_the_run_after_the_step_in_hand_and_saves(tmp_path: Path, step: int) -> None:
    bench = Bench(tmp_path, save_every=5)
    bench.trainer.interrupt_at = step
    assert bench.go().step == step
    assert bench.at("step")[-1] == bench.at("save")[-1] == step
    assert len(set(bench.at("save"))) == len(bench.at("save"))
