"""A resumed run is the run that it was: decided for every key, with what changes kept, told and shown."""

import shutil
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lm_core.cli import parse_flags
from lm_core.data.batches import Origin, ShuffledWindows
from lm_core.errors import UserError
from lm_core.file_names import toml_document
from lm_core.run import checkpoint, session
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.plan import Plan
from lm_core.schedules import learning_rate
from lm_pipeline.commands import train
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_resume import POLICY

STEPS = 60
FLAGS = f"""
    --data.train tokens/train.npy --data.validation tokens/validation.npy --data.tokenizer tok --save_dir run
    --model.seq_len 16 --model.d_model 16 --model.n_layers 1 --model.n_heads 2
    --training.batch_size 4 --training.max_steps {STEPS}
    --schedule.kind cosine --schedule.peak_lr 2e-3 --schedule.warmup_steps 5 --schedule.min_factor 0.1
""".split()


Planned = Callable[..., Plan]
SaveRun = Callable[..., Checkpoints]


@pytest.fixture
def begun(workplace: Path, planned: Planned, save_run: SaveRun) -> Plan:
    """A complete run in the folder `run`."""
    plan = planned(*FLAGS)
    save_run(plan, STEPS)
    return plan


@pytest.fixture
def resumed(planned: Planned) -> Planned:
    return partial(planned, "--resume", "--save_dir", "run")


def test_every_key_has_a_decision() -> None:
    assert POLICY.problems(TrainConfig) == []


def test_a_run_resumed_by_the_command_that_started_it_changes_nothing(begun: Plan, resumed: Planned) -> None:
    plan = resumed(*FLAGS)
    assert plan.notes == []
    assert plan.history.entries == []
    assert plan.kept_config == begun.kept_config
    assert plan.checkpoint_metadata() == begun.checkpoint_metadata()


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ("--seed 3", "seed"),
        ("--data.validation tokens/train.npy", "data.validation"),
        ("--data.eval_tokens 50", "data.eval_tokens"),
        ("--training.max_steps 90 --model.norm rms", "model.norm"),
    ],
)
def test_what_the_losses_stand_on_is_refused(begun: Plan, resumed: Planned, flags: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"^{key} is .* in the run and .* here: this is fixed for a run"):
        resumed(*flags.split())


def test_a_token_file_that_has_moved_is_the_same(begun: Plan, resumed: Planned, workplace: Path) -> None:
    for name in ("train.npy", "train.npy.json"):
        (workplace / name).write_bytes((workplace / "tokens" / name).read_bytes())
    plan = resumed("--data.train", "train.npy")
    assert plan.notes == []
    assert plan.kept_config["data"]["train"] == str(workplace / "train.npy")


def test_more_steps_bend_the_rate_with_a_word_and_a_choice(begun: Plan, resumed: Planned) -> None:
    plan = resumed("--training.max_steps", "200")
    assert plan.notes == [
        "changed from step 61 on: training.max_steps 60 -> 200",
        "learning rate: 0.0002 at step 60, 0.00166 at step 61, 0.0002 at step 200",
        "note: --schedule.on_resume stretch, floor or warmup chooses how the decay continues",
    ]
    assert {entry["key"] for entry in plan.checkpoint_metadata()["history"]} == {"training.max_steps"}


def test_a_decay_that_goes_on_as_it_would_have_needs_no_word(
    workplace: Path, planned: Planned, resumed: Planned, save_run: SaveRun
) -> None:
    save_run(planned(*FLAGS, "--schedule.max_steps", "100"), 40)
    assert resumed("--training.max_steps", "90").notes == ["changed from step 41 on: training.max_steps 60 -> 90"]


@pytest.mark.parametrize(
    ("how", "kept", "rates"),
    [
        ("stretch", {"max_steps": 0, "start_step": 0}, {61: 1.658e-3, 200: 2e-4}),
        ("floor", {"max_steps": 60, "start_step": 0}, {61: 2e-4, 200: 2e-4}),
        ("warmup", {"max_steps": 0, "start_step": 60}, {61: 4e-4, 65: 2e-3, 200: 2e-4}),
    ],
)
def test_the_choice_is_kept_so_that_the_next_resume_needs_no_flag(
    begun: Plan, resumed: Planned, save_run: SaveRun, how: str, kept: dict[str, int], rates: dict[int, float]
) -> None:
    plan = resumed("--training.max_steps", "200", "--schedule.on_resume", how)
    schedule = plan.kept_config["schedule"]
    assert {key: schedule[key] for key in kept} == kept
    assert "on_resume" not in schedule
    found = {step: learning_rate(plan.schedule, step) for step in rates}
    assert found == pytest.approx(rates, rel=2e-3)
    assert any(note.startswith("learning rate: 0.0002 at step 60") for note in plan.notes)
    save_run(plan, 70)
    again = resumed()
    assert again.schedule == plan.schedule
    assert again.notes == []


def test_the_choice_without_a_run_to_resume_is_a_mistake(workplace: Path, planned: Planned) -> None:
    with pytest.raises(UserError, match=r"schedule\.on_resume: there is nothing to resume"):
        planned(*FLAGS, "--schedule.on_resume", "floor")


def test_another_batch_size_repeats_no_window(begun: Plan, resumed: Planned, save_run: SaveRun) -> None:
    """The rows of both parts of the run together are those of one that read them one by one."""
    plan = resumed("--training.batch_size", "6", "--training.max_steps", "80")
    assert isinstance(plan.batches, ShuffledWindows)
    assert isinstance(begun.batches, ShuffledWindows)
    assert plan.checkpoint_metadata()["origin"] == {"step": STEPS, "windows": 4 * STEPS}
    one_by_one = ShuffledWindows(begun.batches.tokens, 1, 16, 0)
    for stream, step, first in ((begun.batches, STEPS, 4 * STEPS - 4), (plan.batches, STEPS + 1, 4 * STEPS)):
        rows = stream.batch(step).inputs
        expected = [one_by_one.batch(first + i + 1).inputs[0] for i in range(len(rows))]
        assert np.array_equal(rows, expected)
    save_run(plan, 70)
    back = resumed("--training.batch_size", "4")
    assert back.checkpoint_metadata()["origin"] == {"step": 70, "windows": 4 * STEPS + 6 * 10}
    assert resumed().checkpoint_metadata()["origin"] == plan.checkpoint_metadata()["origin"]


def test_other_training_text_begins_with_a_whole_epoch(begun: Plan, resumed: Planned) -> None:
    plan = resumed("--data.train", "tokens/validation.npy")
    assert isinstance(plan.batches, ShuffledWindows)
    assert plan.batches.origin.windows % plan.batches.per_epoch == 0
    assert plan.batches.origin.windows >= 4 * STEPS


@pytest.mark.parametrize("cut", ["[training]", "batch_size", ""])
def test_a_config_cut_at_a_lines_end_is_named_and_the_checkpoints_used(
    begun: Plan, resumed: Planned, workplace: Path, capsys: pytest.CaptureFixture[str], cut: str
) -> None:
    config = workplace / "run/config.toml"
    config.write_text(config.read_text().partition(cut)[0] if cut else "")
    plan = resumed()
    said = capsys.readouterr().err
    assert "run/config.toml differs from what the run was trained with (" in said
    assert said.count("\n") == 1
    assert plan.kept_config == begun.kept_config
    assert tomllib.loads(plan.config_toml())["training"]["batch_size"] == 4, "and it will be whole again"


def test_a_checkpoint_of_before_goes_on_by_config_toml_and_from_the_same_place(
    begun: Plan, resumed: Planned, save_run: SaveRun
) -> None:
    shutil.rmtree("run/checkpoints")
    save_run(begun, STEPS, config=None, history=None, origin=None)
    plan = resumed("--training.max_steps", "80")
    for step in (1, STEPS + 1):
        assert np.array_equal(plan.batches.batch(step).inputs, begun.batches.batch(step).inputs)
    assert Origin(**plan.checkpoint_metadata()["origin"]) == Origin()
    assert plan.history.entries == [{"step": STEPS, "key": "training.max_steps", "from": STEPS, "to": 80}]


@pytest.mark.parametrize("of_before", [False, True])
def test_a_run_of_the_format_before_is_resumed_as_it_was(
    planned: Planned, resumed: Planned, save_run: SaveRun, workplace: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], of_before: bool,
) -> None:  # fmt: skip
    """There grad_clip was a key of [step]; also where the checkpoint has no config, and config.toml has to do."""
    plan = planned(*FLAGS, "--optimizer.grad_clip", "0.25")
    config = plan.kept_config
    clip = config["optimizer"].pop("grad_clip")
    config["step"]["grad_clip"] = clip
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 1)
        save_run(plan, STEPS, config=None if of_before else config)
    (workplace / "run/config.toml").write_text("# run folder, format 1\n" + toml_document(config))
    again = resumed()
    assert again.optimizer == plan.optimizer
    assert again.optimizer.grad_clip == 0.25
    assert again.notes == []
    assert capsys.readouterr().err == ""


def test_a_complete_run_says_so_and_stays_as_it_is(
    begun: Plan, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def files() -> dict[Path, bytes]:
        found = (workplace / "run").rglob("*")
        return {path: path.read_bytes() for path in found if path.is_file() and path.name != "lock"}

    monkeypatch.setattr(session, "load_backend", lambda _: pytest.fail("a framework is asked for"))
    monkeypatch.setattr(session, "write_report", lambda folder: folder / "report.html")
    (workplace / "run/result.json").write_text(f'{{"step": {STEPS}}}')
    before = files()
    for words in ([], ["--training.max_steps", "30"], ["--schedule.peak_lr", "1.0"]):
        flags = ["--resume", "--save_dir", "run", *words]
        train.train(parse_flags(TrainConfig, "train", flags), flags)
        said = capsys.readouterr()
        assert said.err == "run is complete at step 60; nothing was changed\n"
        assert said.out.startswith("report: run/report.html\n")
    assert files() == before
