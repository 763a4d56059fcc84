"""Runs that are trained as one model each are what they are alone: folders, resumes, ends, errors, lines."""

import json
import signal
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from lm_core.backend import Backend
from lm_core.config import LoopConfig, ScheduleConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.errors import NonFiniteError, UserError
from lm_core.optim import state_shapes
from lm_core.run import session
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.log import read_records
from lm_core.run.loop import Run
from lm_core.run.plan import SampledBatches
from lm_core.run.seeds import for_each_seed
from lm_core.run.state import RunState
from lm_core.run.together import Group

from .small_runs import OPTIMIZER, POLICY, TABLE, AppConfig, Numpy, plan_of

SEEDS = 3, 11, 4
NAME = next(iter(TABLE))


class Model:
    """Sums up what it reads in its weights, and, slower, in its optimizer's state."""

    def __init__(self, weights: Any, seed: int):
        self.arrays = dict(weights)
        self.state = {name: np.zeros(shape, np.float32) for name, shape in state_shapes(OPTIMIZER, TABLE).items()}
        self.taken, self.seed = 0, seed

    def step(self, batch: Batch, lr: float) -> dict[str, Any]:
        self.taken += 1
        seen = np.float32(batch.inputs.astype(np.float64).std() * lr + self.seed / 100)
        self.state = {name: array * np.float32(0.9) + seen for name, array in self.state.items()}
        self.arrays = {name: array + seen + self.state[f"m.{name}"] for name, array in self.arrays.items()}
        return {"loss_nats": self.loss(), "grad_norm": 1.0, "grad_norms": np.ones(len(TABLE))}

    def loss(self) -> float:
        return float(self.arrays[NAME].flat[0])

    def optimizer_state(self) -> dict[str, Any]:
        return self.state | {"step": np.array(self.taken)}

    def load(self, weights: Any, state: Any) -> None:
        self.arrays, self.taken = dict(weights), int(state["step"])
        self.state = {name: array for name, array in state.items() if name != "step"}

    def evaluate(self, batch: Batch) -> float:
        return self.loss() * 2

    def snapshot(self) -> Any:
        both = dict(self.arrays), self.optimizer_state()
        return lambda: both

    def choices(self) -> dict[str, str]:
        return {}

    def repeat(self, choices: Any) -> None:
        pass

    def diagnostics(self) -> dict[str, Any]:
        return {}


class Models:
    """`SeedTrainer` of as many models; notes the shapes of what it is called with."""

    def __init__(self, weights: Sequence[Any], seeds: Sequence[int]):
        self.models = [Model(arrays, seed) for arrays, seed in zip(weights, seeds, strict=True)]
        self.calls = list[str]()
        self.is_averaged = False

    def step(self, batches: Sequence[Batch], lr: float) -> list[Any]:
        assert len({model.taken for model in self.models}) == 1
        self.calls.append(f"step of {len(batches)}")
        return [model.step(batch, lr) for model, batch in zip(self.models, batches, strict=True)]

    def evaluate(self, batches: Sequence[Batch]) -> list[float]:
        self.calls.append(f"evaluation of {len(batches)}, averaged {self.is_averaged}")
        return [model.evaluate(batch) for model, batch in zip(self.models, batches, strict=True)]

    @contextmanager
    def averaged(self) -> Any:
        self.is_averaged = True
        yield
        self.is_averaged = False

    def weights(self, which: int) -> dict[str, Any]:
        return {name: array + self.is_averaged for name, array in self.models[which].arrays.items()}

    def optimizer_state(self, which: int) -> dict[str, Any]:
        return self.models[which].optimizer_state()

    def diagnostics(self, which: int) -> dict[str, Any]:
        return {}

    def load(self, weights: Sequence[Any], states: Sequence[Any]) -> None:
        assert len({int(state["step"]) for state in states}) == 1
        for model, arrays, state in zip(self.models, weights, states, strict=True):
            model.load(arrays, state)


class Paper(Numpy):
    def __init__(self, breaks: int = 0, stops: int = 0):
        self.breaks, self.stops = breaks, stops
        self.made: Models | None = None

    def build(self, model: Any, optimizer: Any, step: Any, weights: Any, seed: int) -> Any:
        return Model(weights, seed)

    def build_seeds(self, model: Any, optimizer: Any, step: Any, weights: Any, seeds: Any) -> Models:
        self.made = made = Models(weights, seeds)
        take = made.step

        def taken(batches: Sequence[Batch], lr: float) -> list[Any]:
            if made.models[0].taken + 1 == self.stops:
                signal.raise_signal(signal.SIGTERM)
            if made.models[0].taken + 1 == self.breaks:
                raise MemoryError("cannot allocate")
            return take(batches, lr)

        made.step = taken  # type: ignore[method-assign]
        return made


def one(folder: Path, seed: int, backend: Any, resume: bool = False, **more: Any) -> RunState:
    """A run as an app makes it."""
    run = RunFolder(folder / f"seed-{seed}")
    plan = plan_of(AppConfig(seed=seed), **{"steps": 8, "sample": None} | more)
    with session.opened(run, AppConfig, POLICY, resume=resume) as known:
        made = replace(plan, checkpoint=known.checkpoint) if known else plan
        return session.run(made, run, backend=cast("Backend", backend))


def together(folder: Path, backend: Any, resume: bool = False, **more: Any) -> list[Any]:
    """All seeds; `more` may have fields for one of them alone, by its seed."""
    own = {seed: more.pop(f"of_{seed}", {}) for seed in SEEDS}
    runs = [(f"seed {seed}", partial(one, folder, seed, backend, resume, **(more | own[seed]))) for seed in SEEDS]
    return Group(runs).run()


def numbers(folder: Path) -> dict[int, Any]:
    """What was computed, without times: records and the newest checkpoint of each seed."""
    found = {}
    for seed in SEEDS:
        run = RunFolder(folder / f"seed-{seed}")
        records = [(r["kind"], r["step"], r["loss_nats"]) for r in read_records(run.metrics) if "loss_nats" in r]
        newest = Checkpoints(run.checkpoints).newest(lambda _: None)
        arrays = {**newest.weights, **newest.optimizer_state} if newest else {}
        found[seed] = records, {name: array.tobytes() for name, array in arrays.items()}
    return found


@pytest.fixture
def alone(tmp_path: Path) -> dict[int, Any]:
    for seed in SEEDS:
        one(tmp_path / "alone", seed, Paper())
    return numbers(tmp_path / "alone")


def test_each_run_is_what_it_is_alone_and_all_are_one_call(tmp_path: Path, alone: dict[int, Any]) -> None:
    backend = Paper()
    outcomes = together(tmp_path / "t", backend)
    assert [outcome.step for outcome in outcomes] == [8, 8, 8]
    assert numbers(tmp_path / "t") == alone
    assert backend.made is not None
    evaluations = [call for call in backend.made.calls if call.startswith("evaluation")]
    assert backend.made.calls.count("step of 3") == 8
    assert len(evaluations) == 2, "at the first step and at the last, of all in one call"
    result = json.loads((tmp_path / "t" / "seed-11" / "result.json").read_text())
    assert result["step"] == 8
    assert result["metrics.peak_memory_bytes"] == 0, "its share of 1 byte"


def test_a_run_is_resumed_alone_from_what_was_saved_together_and_says_so(
    tmp_path: Path, alone: dict[int, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    together(tmp_path / "t", Paper(stops=3))
    assert Checkpoints(RunFolder(tmp_path / "t" / "seed-3").checkpoints).newest_metadata()["state"]["step"] == 3
    capsys.readouterr()
    for seed in SEEDS:
        one(tmp_path / "t", seed, Paper(), resume=True)
    assert numbers(tmp_path / "t") == alone
    assert "computed with seeds as one model: 3; from here on its rounding may differ" in capsys.readouterr().err


@pytest.mark.parametrize("first", [{3: 0, 11: 4, 4: 2}, {3: 8, 11: 2, 4: 6}, {3: 5, 11: 5, 4: 5}])
def test_runs_that_are_at_different_steps_are_resumed_together(
    tmp_path: Path, alone: dict[int, Any], first: dict[int, int]
) -> None:
    """As after a SIGKILL between the saves of two of them. Those ahead wait for those behind."""
    for seed, steps in first.items():
        if steps:
            one(tmp_path / "t", seed, Paper(stops=0), steps=steps)
    backend = Paper()
    runs = [
        (str(seed), partial(one, tmp_path / "t", seed, backend, resume=bool(steps))) for seed, steps in first.items()
    ]
    assert [outcome.step for outcome in Group(runs).run()] == [8, 8, 8]
    trained = {seed: [r for r in records if r[0] == "train"] for seed, (records, _) in numbers(tmp_path / "t").items()}
    assert trained == {seed: [r for r in records if r[0] == "train"] for seed, (records, _) in alone.items()}
    assert {seed: state for seed, (_, state) in numbers(tmp_path / "t").items()} == {
        seed: state for seed, (_, state) in alone.items()
    }
    assert backend.made is not None
    assert backend.made.calls.count("step of 3") == 8 - min(first.values())


def test_one_that_ends_earlier_leaves_the_others_as_they_are(tmp_path: Path, alone: dict[int, Any]) -> None:
    outcomes = together(tmp_path / "t", Paper(), of_11={"steps": 3})
    assert [outcome.step for outcome in outcomes] == [8, 3, 8]
    found = numbers(tmp_path / "t")
    assert {seed: found[seed] for seed in (3, 4)} == {seed: alone[seed] for seed in (3, 4)}


def test_one_that_diverges_leaves_the_others_as_they_are(
    tmp_path: Path, alone: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Model.loss
    monkeypatch.setattr(Model, "loss", lambda self: float("nan") if self.seed == 11 else plain(self))
    outcomes = together(tmp_path / "t", Paper(), loop=LoopConfig(max_steps=8, save_every=2, log_every=1))
    assert isinstance(outcomes[1], NonFiniteError)
    found = numbers(tmp_path / "t")
    assert {seed: found[seed][1] for seed in (3, 4)} == {seed: alone[seed][1] for seed in (3, 4)}


def test_a_signal_stops_all_at_one_step_and_the_same_again_resumes(tmp_path: Path, alone: dict[int, Any]) -> None:
    assert [outcome.step for outcome in together(tmp_path / "t", Paper(stops=5))] == [5, 5, 5]
    assert [outcome.step for outcome in together(tmp_path / "t", Paper(), resume=True)] == [8, 8, 8]
    assert numbers(tmp_path / "t") == alone
    assert [outcome.step for outcome in together(tmp_path / "t", Paper(), resume=True)] == [8, 8, 8], "complete"


def test_what_breaks_the_one_model_is_reported_by_every_run(tmp_path: Path) -> None:
    outcomes = together(tmp_path / "t", Paper(breaks=5))
    assert [type(outcome) for outcome in outcomes] == [UserError] * 3
    assert all("the checkpoint of step 4 is kept" in str(outcome) for outcome in outcomes)


def test_an_evaluation_of_the_average_leaves_the_others_weights(tmp_path: Path) -> None:
    backend = Paper()
    together(tmp_path / "t", backend, loop=LoopConfig(max_steps=4, eval_every=2, save_every=1, eval_average=True))
    assert backend.made is not None
    assert {c for c in backend.made.calls if c.startswith("evaluation")} == {"evaluation of 3, averaged True"}
    saved = Checkpoints(RunFolder(tmp_path / "t" / "seed-4").checkpoints).newest(lambda _: None)
    assert saved is not None
    np.testing.assert_array_equal(saved.weights[NAME], backend.made.models[2].arrays[NAME])


@pytest.mark.parametrize(
    "own",
    [
        {"optimizer": OPTIMIZER.model_copy(update={"beta2": 0.9})},
        {"step": StepConfig(grad_accum_steps=2)},
        {"schedule": ScheduleConfig(peak_lr=0.5)},
    ],
)
def test_runs_of_other_settings_are_refused_by_all(tmp_path: Path, own: dict[str, Any]) -> None:
    outcomes = together(tmp_path / "t", Paper(), of_11=own)
    assert all("only with the same" in str(outcome) for outcome in outcomes), outcomes


def test_a_mistake_of_one_before_the_first_step_ends_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t" / "seed-11").mkdir(parents=True)
    (tmp_path / "t" / "seed-11" / "config.toml").write_text("")
    first, second, third = together(tmp_path / "t", Paper())
    assert isinstance(second, UserError)
    assert str(first) == str(third) == f"seed 11 cannot start, so the others do not: {second}"
    assert f"seed 11: {second}\n" in capsys.readouterr().err
    assert not (tmp_path / "t" / "seed-4" / "config.toml").exists()


def test_batches_that_are_sampled_are_refused(tmp_path: Path) -> None:
    class Sampled(SampledBatches):
        every = 1

    outcomes = together(tmp_path / "t", Paper(), batches=Sampled())
    assert all("not on what each samples" in str(outcome) for outcome in outcomes), outcomes


def test_lengths_that_vary_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    outcomes = together(tmp_path / "t", Paper(), step=StepConfig(varying_length=True))
    assert all(isinstance(outcome, UserError) and "windows of one length" in str(outcome) for outcome in outcomes)
    assert not list((tmp_path / "t").rglob("config.toml"))


def test_the_memory_of_the_device_is_shared(tmp_path: Path) -> None:
    backend = Paper()
    backend.room = cast("None", 3 * 6000)
    assert [outcome.step for outcome in together(tmp_path / "t", backend)] == [8, 8, 8]
    backend.room = cast("None", 6000)
    assert all(isinstance(outcome, UserError) for outcome in together(tmp_path / "u", backend))


def test_lines_name_the_run_and_the_records_are_the_first_one_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    together(tmp_path / "t", Paper())
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [r["step"] for r in records if r["kind"] == "train"] == [1]
    assert {line.split(": ")[0] for line in err.splitlines() if line} == {"seed 3", "seed 11", "seed 4"}
    assert "seed 4: validation loss" in out


def test_the_records_are_the_next_one_s_when_the_first_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = LoopConfig(max_steps=8, log_every=1, save_every=0)
    together(tmp_path / "t", Paper(), loop=loop, of_3={"loop": LoopConfig(max_steps=3, log_every=1, save_every=0)})
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [r["step"] for r in records if r["kind"] == "train"] == [*range(1, 9)]


def test_after_a_signal_what_else_went_wrong_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(argv: list[str]) -> int:
        seed = int(argv[argv.index("--seed") + 1])
        one(tmp_path / "t", seed, backend)
        if seed == 11:
            raise UserError("step 5 could not be saved")
        return 0

    backend = Paper(stops=5)
    words = ["--seeds", *map(str, SEEDS), "--together", "--save_dir", str(tmp_path / "t")]
    with pytest.raises(UserError, match="could not be saved"):
        for_each_seed(words, run)
    assert "seed 11: step 5 could not be saved" in capsys.readouterr().err


def test_the_time_of_no_run_has_the_end_of_another_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def wait(seconds: float) -> float:
        nonlocal now
        now += seconds
        return now

    monkeypatch.setattr(session, "Run", partial(Run, clock=lambda: wait(0.001)))
    monkeypatch.setattr(session, "write_report", lambda path: wait(100))
    together(tmp_path / "t", Paper())
    results = [json.loads((tmp_path / "t" / f"seed-{seed}" / "result.json").read_text()) for seed in SEEDS]
    assert now > 300
    assert all(0 < result["metrics.seconds"] < 100 for result in results)


def test_seeds_together_in_one_command(tmp_path: Path, alone: dict[int, Any]) -> None:
    backend = Paper()

    def run(argv: list[str]) -> int:
        folder, seed = Path(argv[argv.index("--save_dir") + 1]), int(argv[argv.index("--seed") + 1])
        if "--broken" in argv:
            raise UserError("broken")
        one(folder.parent, seed, backend, "--resume" in argv)
        return 0

    words = ["--seeds", *map(str, SEEDS), "--together", "--save_dir", str(tmp_path / "t")]
    assert for_each_seed(words, run) == 0
    assert numbers(tmp_path / "t") == alone
    assert for_each_seed(words, run) == 0, "complete"
    with pytest.raises(UserError, match="broken"):
        for_each_seed([*words, "--broken"], run)


def test_a_run_that_exits_ends_the_program(tmp_path: Path) -> None:
    def leave() -> None:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        Group([("a", leave), ("b", leave)]).run()
