"""The measured choice of a library: it follows the timings, is kept on disk, and is repeated by a resumed run."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lm_core.config import ModelConfig, StepConfig
from lm_core.testing import ADAMW, MODELS, rough_arrays, some_batches
from lm_torch import onednn, product_choice
from lm_torch.onednn import KINDS, NONE, Kind, Kinds
from lm_torch.product_choice import MARGIN, Timing, choose, measured, parsed, spelled
from lm_torch.step import TorchTrainer

LARGE = ModelConfig(vocab_size=11, seq_len=8, d_model=128, n_layers=1, n_heads=1)
SMALL = LARGE.model_copy(update={"d_model": 8})
needs_onednn = pytest.mark.skipif(not onednn.AVAILABLE, reason="no product goes to oneDNN here")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A processor of its own: its instruction set, and the kinds in which oneDNN is fast there."""
    there: dict[str, Any] = {"capability": "AVX2", "fast": {"forward"}, "asked": 0}

    def measure(d_model: int, d_ff: int) -> Kinds | None:
        there["asked"] += 1
        return measured(d_model, d_ff, lambda kind, *_: (1.0, 0.5 if kind in there["fast"] else 2.0))

    product_choice._kept.cache_clear()
    monkeypatch.setattr(product_choice, "preempted", lambda: 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(product_choice, "measured", measure)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: there["capability"])
    return there


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_goes_to_onednn_where_it_takes_less_time_by_a_margin(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product_choice, "preempted", lambda: 0)

    def timer(asked: Kind, rows: int, n_in: int, n_out: int) -> Timing:
        assert rows == (1 if asked == "one row" else product_choice.ROWS)
        return 1.0, share if asked == kind else 5.0

    for share in (MARGIN - 0.01, MARGIN, 1.0, 2.0):
        assert measured(128, 512, timer) == ({kind} if share < MARGIN else NONE)


def test_matrices_count_as_often_as_a_block_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN is twice as fast for [F, D] and [D, F], and slower for the four of [D, D]."""
    monkeypatch.setattr(product_choice, "preempted", lambda: 0)
    for square, better in ((1.3, True), (1.5, False)):
        kinds = measured(8, 32, lambda _, rows, n_in, n_out, s=square: (1.0, s if n_in == n_out else 0.0))
        assert bool(kinds) == better


@needs_onednn
def test_the_choice_is_kept_on_disk_and_measured_again_where_anything_differs(
    clock: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose(LARGE) == {"forward"}
    clock["fast"] = {"one row"}
    product_choice._kept.cache_clear()  # as in a new process
    assert choose(LARGE) == {"forward"}
    assert clock["asked"] == 1
    for change in (
        lambda: monkeypatch.setattr(torch, "get_num_threads", lambda: 77),
        lambda: monkeypatch.setattr(torch, "__version__", "2.99"),
        lambda: monkeypatch.setattr(product_choice, "processor", lambda: "Zilog Z80"),
        lambda: monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41"),
        lambda: clock.update(capability="AVX512"),
    ):
        change()
        before = clock["asked"]
        assert choose(LARGE) == {"one row"}
        assert clock["asked"] == before + 1


@needs_onednn
def test_on_a_busy_machine_the_instruction_set_decides_and_nothing_is_kept(
    clock: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as busy:
        interruptions = itertools.count(step=product_choice.MOST_PREEMPTED + 1)
        busy.setattr(product_choice, "preempted", lambda: next(interruptions))
        assert choose(LARGE) == onednn.by_default("AVX2")
    product_choice._kept.cache_clear()
    assert choose(LARGE) == {"forward"}


@pytest.mark.parametrize("disturbed", [0, product_choice.TRIES - 1, product_choice.TRIES])
def test_a_product_is_measured_again_while_the_machine_is_busy(disturbed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"interruptions": 0, "measured": 0}

    def timer(kind: Kind, *_: int) -> Timing:
        there["measured"] += 1
        there["interruptions"] += 1000 * (there["measured"] <= disturbed)
        return 1.0, 0.5 if kind == "one row" else 2.0

    monkeypatch.setattr(product_choice, "preempted", lambda: there["interruptions"])
    assert measured(128, 512, timer) == ({"one row"} if disturbed < product_choice.TRIES else None)


def test_a_long_measurement_may_be_interrupted_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"interruptions": 0, "seconds": 0.0}
    monkeypatch.setattr(product_choice, "preempted", lambda: there["interruptions"])
    monkeypatch.setattr(product_choice.time, "perf_counter", lambda: there["seconds"])
    for each, expected in ((10 * product_choice.MOST_PREEMPTED - 1, NONE), (11 * product_choice.MOST_PREEMPTED, None)):

        def timer(*_: Any, each: int = each) -> Timing:
            there["interruptions"] += each
            there["seconds"] += 10 * product_choice.BUDGET_S
            return 1.0, 2.0

        assert measured(128, 512, timer) == expected


@needs_onednn
def test_a_deterministic_run_does_not_depend_on_a_measurement(clock: dict[str, Any]) -> None:
    cpu, weights = torch.device("cpu"), rough_arrays(LARGE)
    trainer = TorchTrainer(LARGE, ADAMW, StepConfig(device="cpu", deterministic=True), weights, 0, cpu)
    assert parsed(trainer.choices()["products by oneDNN"]) == onednn.chosen()
    assert not clock["asked"]


@needs_onednn
def test_small_models_and_other_processors_are_not_measured(clock: dict[str, Any]) -> None:
    assert choose(SMALL) == onednn.by_default("AVX2")
    clock["capability"] = "AVX512"
    assert choose(SMALL) == onednn.by_default("AVX512")
    clock["capability"] = "SVE256"
    assert choose(LARGE) == NONE
    assert not clock["asked"]


@needs_onednn
@pytest.mark.parametrize("content", ["{", "[]", '{"%s": ["magic"]}', '{"%s": [3]}'])
def test_a_damaged_file_is_measured_again(clock: dict[str, Any], content: str) -> None:
    path = product_choice.cache_file()
    assert path is not None
    path.parent.mkdir()
    key = product_choice._key(LARGE)
    path.write_text(content.replace("%s", key))
    assert choose(LARGE) == {"forward"}
    assert json.loads(path.read_text())[key] == ["forward"]


@needs_onednn
def test_a_cache_that_cannot_be_written_changes_nothing(
    clock: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert choose(LARGE) == {"forward"}


@pytest.mark.parametrize(
    "kinds", [NONE, frozenset(KINDS), frozenset(["forward", "one row"])], ids=["none", "all", "some"]
)
def test_what_a_checkpoint_holds_is_read_as_it_was_written(kinds: Kinds) -> None:
    assert parsed(spelled(kinds)) == kinds
    assert parsed("forward, magic") is None


@needs_onednn
def test_a_trainer_repeats_the_choices_of_the_run_that_it_resumes(clock: dict[str, Any]) -> None:
    """To the bit, though this process would have measured otherwise."""
    model = MODELS["testbed-d"].model_copy(update={"d_model": 128, "n_heads": 2, "d_ff": 512})
    cpu, step, weights = torch.device("cpu"), StepConfig(device="cpu"), rough_arrays(model)
    clock["fast"] = {"forward", "input gradient", "weight gradient"}
    first = TorchTrainer(model, ADAMW, step, weights, 0, cpu)
    product_choice._kept.cache_clear()
    clock["fast"], clock["capability"] = set(), "AVX512"
    second = TorchTrainer(model, ADAMW, step, weights, 0, cpu)
    assert first.choices()["products by oneDNN"] == "forward, input gradient, weight gradient"
    assert second.choices() == {"instruction set": "AVX512", "products by oneDNN": "none"}
    second.repeat(first.choices())
    assert second.choices()["products by oneDNN"] == first.choices()["products by oneDNN"]
    batch = some_batches(model).batch(1)
    losses = [float(trainer.step(batch, 1e-2)["loss_nats"]) for trainer in (first, second) for _ in range(2)]
    assert losses[:2] == losses[2:]
    assert all((second.weights()[name] == array).all() for name, array in first.weights().items())


@needs_onednn
def test_a_measurement_is_of_both_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_choice, "BUDGET_S", 0)
    for kind in KINDS:
        assert all(0 < seconds < float("inf") for seconds in product_choice.timed(kind, 2, 4, 8))
