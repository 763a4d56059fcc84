"""A resumed run is the run that it was: decided for every key, with what changes kept, told and shown."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from lm_core.data.batches import Origin, ShuffledWindows
from lm_core.errors import UserError
from lm_core.model.init import initial_arrays
from lm_core.model.parameters import parameter_table
from lm_core.optim import state_shapes
from lm_core.run.state import RunState
from lm_core.schedules import learning_rate
from lm_pipeline.commands import train
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_plan import RunPlan, folder_of, plan_run
from lm_pipeline.commands.train_resume import POLICY

STEPS = 60
FLAGS = f"""
    --data.train tokens/train.npy --data.validation tokens/validation.npy --data.tokenizer tok --save_dir run
    --model.seq_len 16 --model.d_model 16 --model.n_layers 1 --model.n_heads 2
    --training.batch_size 4 --training.max_steps {STEPS}
    --schedule.kind cosine --schedule.peak_lr 2e-3 --schedule.warmup_steps 5 --schedule.min_factor 0.1
""".split()


def planned(*flags: str) -> RunPlan:
    config = train.parse_train(TrainConfig, "train", flags)
    return plan_run(config, folder_of(config))


def save(plan: RunPlan, step: int, **facts: object) -> None:
    """What a run of this plan leaves that has come to a step."""
    train.prepare(plan, 0)
    shapes = state_shapes(plan.config.optimizer, parameter_table(plan.model))
    state = {name: np.ones(shape, np.int64 if name == "step" else np.float32) for name, shape in shapes.items()}
    of_loop = {"step": step, "val_loss": 5.0, "state": {**vars(RunState()), "step": step}}
    plan.checkpoints.save(initial_arrays(plan.model, step), state, {**plan.facts, **of_loop, **facts})


@pytest.fixture
def begun(workplace: Path) -> RunPlan:
    """A complete run in the folder `run`."""
    plan = planned(*FLAGS)
    save(plan, STEPS)
    return plan


def resumed(*flags: str) -> RunPlan:
    return planned("--resume", "--save_dir", "run", *flags)


def test_every_key_has_a_decision() -> None:
    assert POLICY.problems(TrainConfig) == []


def test_a_run_resumed_by_the_command_that_began_it_changes_nothing(begun: RunPlan) -> None:
    plan = resumed(*FLAGS)
    assert plan.notes == []
    assert plan.history.facts == []
    assert plan.config == begun.config
    assert plan.facts == begun.facts


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ("--seed 3", "seed"),
        ("--data.validation tokens/train.npy", "data.validation"),
        ("--data.eval_tokens 50", "data.eval_tokens"),
        ("--training.max_steps 90 --model.norm rms", "model.norm"),
    ],
)
def test_what_the_losses_stand_on_is_refused(begun: RunPlan, flags: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"^--resume: {key} is .* in the run and .* here: this is fixed for a run"):
        resumed(*flags.split())


def test_a_token_file_that_has_moved_is_the_same(begun: RunPlan, workplace: Path) -> None:
    for name in ("train.npy", "train.npy.json"):
        (workplace / name).write_bytes((workplace / "tokens" / name).read_bytes())
    plan = resumed("--data.train", "train.npy")
    assert plan.notes == []
    assert plan.config.data.train == str(workplace / "train.npy")


def test_more_steps_bend_the_rate_with_a_word_and_a_choice(begun: RunPlan) -> None:
    plan = resumed("--training.max_steps", "200")
    assert plan.notes == [
        "changed from step 61 on: training.max_steps 60 -> 200",
        "learning rate: 0.0002 at step 60, 0.00166 at step 61, 0.0002 at step 200; --schedule.on_resume stretch, floor"
        " or warmup chooses how the decay goes on",
    ]
    assert {entry["key"] for entry in plan.facts["history"]} == {"training.max_steps"}


@pytest.mark.parametrize(
    ("how", "kept", "rates"),
    [
        ("stretch", {"max_steps": 0, "start_step": 0}, {61: 1.658e-3, 200: 2e-4}),
        ("floor", {"max_steps": 60, "start_step": 0}, {61: 2e-4, 200: 2e-4}),
        ("warmup", {"max_steps": 0, "start_step": 60}, {61: 4e-4, 65: 2e-3, 200: 2e-4}),
    ],
)
def test_the_choice_is_kept_so_that_the_next_resume_needs_no_flag(
    begun: RunPlan, how: str, kept: dict[str, int], rates: dict[int, float]
) -> None:
    plan = resumed("--training.max_steps", "200", "--schedule.on_resume", how)
    assert {key: getattr(plan.config.schedule, key) for key in kept} == kept
    assert plan.config.schedule.on_resume is None
    found = {step: learning_rate(plan.schedule, step) for step in rates}
    assert found == pytest.approx(rates, rel=2e-3)
    assert any(note.startswith("learning rate: 0.0002 at step 60") for note in plan.notes)
    save(plan, 70)
    again = resumed()
    assert again.schedule == plan.schedule
    assert again.notes == []


def test_the_choice_without_a_run_to_resume_is_a_mistake(workplace: Path) -> None:
    with pytest.raises(UserError, match=r"schedule\.on_resume: there is nothing to resume"):
        planned(*FLAGS, "--schedule.on_resume", "floor")


def test_another_batch_size_repeats_no_window(begun: RunPlan) -> None:
    """The rows of both parts of the run together are those of one that read them one by one."""
    plan = resumed("--training.batch_size", "6", "--training.max_steps", "80")
    assert isinstance(plan.batches, ShuffledWindows)
    assert isinstance(begun.batches, ShuffledWindows)
    assert plan.facts["origin"] == {"step": STEPS, "windows": 4 * STEPS}
    one_by_one = ShuffledWindows(plan.train.tokens, 1, 16, 0)
    for stream, step, first in ((begun.batches, STEPS, 4 * STEPS - 4), (plan.batches, STEPS + 1, 4 * STEPS)):
        rows = stream.batch(step).inputs
        expected = [one_by_one.batch(first + i + 1).inputs[0] for i in range(len(rows))]
        assert np.array_equal(rows, expected)
    save(plan, 70)
    back = resumed("--training.batch_size", "4")
    assert back.facts["origin"] == {"step": 70, "windows": 4 * STEPS + 6 * 10}
    assert resumed().facts["origin"] == plan.facts["origin"]


def test_other_training_text_begins_with_a_whole_epoch(begun: RunPlan) -> None:
    plan = resumed("--data.train", "tokens/validation.npy")
    assert isinstance(plan.batches, ShuffledWindows)
    assert plan.batches.origin.windows % plan.batches.per_epoch == 0
    assert plan.batches.origin.windows >= 4 * STEPS


@pytest.mark.parametrize("cut", ["[training]", "batch_size", ""])
def test_a_config_cut_at_a_lines_end_is_named_and_the_checkpoints_used(
    begun: RunPlan, workplace: Path, capsys: pytest.CaptureFixture[str], cut: str
) -> None:
    config = workplace / "run/config.toml"
    config.write_text(config.read_text().partition(cut)[0] if cut else "")
    plan = resumed()
    said = capsys.readouterr().err
    assert "run/config.toml is not what the run was trained with, and is not used: it says" in said
    assert said.count("\n") == 1
    assert plan.config == begun.config
    train.prepare(plan, 0)
    assert tomllib.loads(config.read_text())["training"]["batch_size"] == 4, "and it is whole again"


def test_a_checkpoint_of_before_goes_on_by_config_toml_and_from_the_same_place(begun: RunPlan) -> None:
    [path] = begun.checkpoints.folder.glob("*.metadata")
    old = begun.checkpoints.read(path)
    facts = {key: old.facts[key] for key in old.facts if key not in ("config", "history", "origin", "weights")}
    begun.checkpoints.save(old.weights, old.optimizer_state, facts)
    plan = resumed("--training.max_steps", "80")
    for step in (1, STEPS + 1):
        assert np.array_equal(plan.batches.batch(step).inputs, begun.batches.batch(step).inputs)
    assert Origin(**plan.facts["origin"]) == Origin()
    assert plan.history.facts == [{"step": STEPS, "key": "training.max_steps", "from": STEPS, "to": 80}]


def test_a_complete_run_says_so_and_stays_as_it_is(
    begun: RunPlan, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "load_backend", lambda _: pytest.fail("a framework is asked for"))
    monkeypatch.setattr(train, "write_report", lambda folder: folder / "report.html")
    (workplace / "run/result.json").write_text("{}")
    before = {path: path.read_bytes() for path in workplace.rglob("run/*") if path.is_file()}
    for words in ([], ["--training.max_steps", "30"], ["--schedule.peak_lr", "1.0"]):
        train.train(train.parse_train(TrainConfig, "train", ["--resume", "--save_dir", "run", *words]))
        assert "run is complete at step 60; nothing was changed" in capsys.readouterr().err
    after = {path: path.read_bytes() for path in workplace.rglob("run/*") if path.is_file() and path.name != "lock"}
    assert after == before
