"""The loop, over a trainer of three numbers: what is due when, and what a record says."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.config import ModelConfig
from lm_core.data.batches import Batch, LengthRule, RandomWindows, frozen_batch
from lm_core.errors import NonFiniteError
from lm_core.model.parameters import parameter_table
from lm_core.run.log import read_records
from lm_core.run.norms import weight_norms

from .loop_bench import TOKENS, Bench


def test_the_first_step_the_due_ones_and_the_last_are_logged_evaluated_and_saved_in_this_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_every=2, eval_every=4, save_every=4, max_steps=5)
    bench.go()
    once = [("train record", 1), ("eval", 1), ("eval record", 1)]
    all_three = [("train record", 4), ("eval", 4), ("eval record", 4), ("save", 4)]
    last = [("eval", 5), ("eval record", 5), ("save", 5)]
    expected = [
        ("step", 1),
        *once,
        ("step", 2),
        ("train record", 2),
        ("step", 3),
        ("step", 4),
        *all_three,
        ("step", 5),
        *last,
    ]
    assert [event for event in bench.events if event[0] != "save"] == [e for e in expected if e[0] != "save"]
    assert bench.at("save") == [4, 5]
    assert bench.events.index(("save", 4)) > bench.events.index(("eval record", 4))
    assert bench.events[-1] == ("save", 5), "the last save is waited for"


def test_an_interval_of_zero_is_never_but_the_ends_are_evaluated_and_the_end_is_saved(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_every=0)
    bench.go()
    assert (bench.at("train record"), bench.at("eval record"), bench.at("save")) == ([1], [1, 10], [10])


def test_a_save_that_is_due_at_the_end_is_made_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, save_every=5)
    bench.go()
    assert bench.at("save") == [5, 10]


def test_the_device_is_waited_for_only_where_something_is_due(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_every=4, max_steps=7)
    seen: list[int] = []
    step = bench.trainer.step

    def counting(batch: Batch, lr: float) -> Mapping[str, Any]:
        seen.append(len(bench.trainer.reads))
        return step(batch, lr)

    bench.trainer.step = counting  # type: ignore[method-assign]
    bench.go()
    assert seen[1] == seen[2] == seen[3] > 0, "between step 1 and step 4 nothing is read"
    assert seen[4] == seen[5] == seen[6] > seen[3]
    looks = [bench.trainer.reads.count(("read", step)) for step in (2, 3, 5, 6, 7)]
    assert looks == [2] * 5, "though in the end each figure of every step was looked at once"


def test_a_record_says_what_the_step_did_in_the_units_of_its_names(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    state = bench.go()
    first, evaluation = bench.records()[:2]
    assert list(first) == ["kind", "step", "loss_nats", "bits_per_token", "lr", "grad_norm", "beta2"]
    assert first["bits_per_token"] == first["loss_nats"] / math.log(2)
    assert (first["lr"], first["beta2"]) == (0.1, {"all": 0.5})
    assert evaluation["loss_nats"] == state.first_val_loss


def test_the_validation_loss_is_the_mean_over_the_tokens_of_all_batches(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_steps=1)
    bench.extras = {"evaluation": [frozen_batch(TOKENS, rows, 4, seed=1) for rows in (1, 2, 5)]}
    bench.trainer.val_losses = iter([8.0, 4.0, 1.0])
    assert bench.go().last_val_loss == pytest.approx((8 * 4 + 4 * 8 + 1 * 20) / 32)


def test_with_the_bytes_of_a_batch_records_hold_bits_per_byte_and_if_asked_perplexity(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_steps=1)
    batches = [frozen_batch(TOKENS, rows, 4, seed=1) for rows in (1, 3)]
    bench.extras = {"evaluation": batches, "bytes_of": lambda batch: int(batch.targets.sum()), "perplexity": True}
    bench.trainer.val_losses = iter([1.0, 2.0])
    bench.go()
    trained, evaluated = bench.records()
    first = RandomWindows(TOKENS, 4, LengthRule(5, 9), seed=3).batch(1)
    nats = trained["loss_nats"] * first.tokens
    assert trained["bits_per_byte"] == pytest.approx(nats / math.log(2) / first.targets.sum())
    text_bytes = sum(int(batch.targets.sum()) for batch in batches)
    assert evaluated["bits_per_byte"] == pytest.approx((1 * 4 + 2 * 12) / math.log(2) / text_bytes)
    assert evaluated["perplexity"] == pytest.approx(math.exp(1.75))
    assert "perplexity" not in trained


def test_utilization_is_said_where_the_device_is_known(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_steps=1)
    bench.extras = {"flops_per_token": 6e3, "peak_flops": 1e9}
    bench.go()
    [record] = [r for r in read_records(tmp_path / "metrics.jsonl") if r["kind"] == "train"]
    assert record["mfu"] == pytest.approx(record["tokens_per_second"] * 6e3 / 1e9)


def test_norms_are_logged_if_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_norms=True)
    bench.go()
    records = [record for record in bench.records() if record["kind"] == "train"]
    assert [list(record["weight_norm"]) for record in records] == [["head"]] * 4
    assert len({record["weight_norm"]["head"] for record in records}) == 4
    assert len({record["activation_rms"]["blocks.0"] for record in records}) == 1, "they are those of one batch"


def test_weights_belong_to_the_embedding_their_block_or_the_head() -> None:
    table = parameter_table(ModelConfig(vocab_size=5, seq_len=3, d_model=4, n_layers=2, n_heads=1))
    norms = weight_norms({name: np.full(p.shape, 2, np.float32) for name, p in table.items()})
    assert list(norms) == ["embed", "blocks.0", "blocks.1", "head"]
    assert norms["embed"] == pytest.approx(2 * math.sqrt(5 * 4 + 3 * 4))
    assert norms["head"] == pytest.approx(2 * math.sqrt(4 + 4 + 5 * 4))


def test_norms_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_norms=True)
    bench.trainer.weights = lambda: {"blocks.3.x": np.array([np.nan])}  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=r"step 1: weight_norm of blocks\.3 is nan"):
        bench.go()


class Clock:
    """Stands still but in a step, which takes as long as it is said to."""

    def __init__(self, bench: Bench, seconds: Mapping[int, float], other: float):
        self.now = 0.0
        bench.trainer.before_step = lambda step: self.pass_by(seconds.get(step, other))
        bench.extras["clock"] = lambda: self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("steps", "others", "said"),
    [
        (1500, 0.4096, "about 10 min for 1,500 steps of 410 ms each, evaluations and saves apart"),
        (20, 1500.0, "about 8.3 hours for 20 steps of 25 min each"),
        (20, 10000.0, "about 2.3 days for 20 steps"),
        (1500, 0.01, ""),
    ],
)
def test_the_time_of_a_run_is_estimated_once_from_the_steps_after_the_first_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int, others: float, said: str
) -> None:
    """The first step compiles for an hour; an evaluation, at steps 1 and 5, takes an hour too, and counts as little."""
    bench = Bench(tmp_path, max_steps=steps, log_every=4, eval_every=5)
    bench.trainer.interrupt_at = 13
    clock, evaluate = Clock(bench, {1: 3600.0}, others), bench.trainer.evaluate

    def slowly(batch: Batch) -> float:
        clock.pass_by(3600)
        return evaluate(batch)

    bench.trainer.evaluate = slowly  # type: ignore[method-assign]
    bench.go()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("about ")]
    assert lines == [line for line in lines if line.startswith(said)]
    assert len(lines) == bool(said)


def test_a_resumed_run_is_estimated_by_what_is_left_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path, max_steps=1000, log_every=4)
    bench.trainer.interrupt_at = 100
    Clock(bench, {}, 0.01)
    bench.go()
    assert "steps of" not in capsys.readouterr().err
    again = Bench(tmp_path, max_steps=1000, log_every=4)
    again.trainer.interrupt_at = 120
    Clock(again, {101: 3600.0}, 0.5)
    again.resume()
    again.go()
    assert "about 7.5 min for 900 steps of 500 ms each" in capsys.readouterr().err
