"""A session over a backend of plain numpy: what a run folder holds at each end of a run, and what is never lost."""

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from lm_core.backend import Backend
from lm_core.config import AdamWConfig, Config, LoopConfig, ModelConfig, ScheduleConfig, StepConfig
from lm_core.data.batches import Batch, LengthRule, Origin, RandomWindows, ShuffledWindows, frozen_batch
from lm_core.errors import NonFiniteError, UserError
from lm_core.model.parameters import parameter_table
from lm_core.optim import state_shapes
from lm_core.run import session
from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.folder import FORMAT, RunFolder, upgraded
from lm_core.run.log import RunLog, read_records
from lm_core.run.plan import Plan, Sample
from lm_core.run.resume import Policy, Recorded, recorded
from lm_core.run.state import RunState

MODEL = ModelConfig(vocab_size=7, seq_len=4, d_model=2, n_layers=1, n_heads=1)
OPTIMIZER = AdamWConfig()
TOKENS = np.arange(60) % 7
POLICY = Policy(refused="seed", recorded="rate", no_effect="", call="resume")


class AppConfig(Config):
    seed: int = 0
    rate: float = 0.1
    resume: bool = False


class TextConfig(AppConfig):
    text: str = ""


POLICY_OF_TEXT = Policy(refused="seed", recorded="rate text", no_effect="", call="resume")


class Still:
    """A trainer that counts its steps in its optimizer's state, and learns nothing else."""

    def __init__(self, weights: Mapping[str, Any]):
        self.arrays = dict(weights)
        self.state = {name: np.zeros(shape, np.float32) for name, shape in state_shapes(OPTIMIZER, TABLE).items()}
        self.taken = 0

    def step(self, batch: Batch, lr: float) -> dict[str, Any]:
        self.taken += 1
        return {"loss_nats": 1 / self.taken, "grad_norm": 1.0, "grad_norms": np.ones(len(TABLE))}

    def diagnostics(self) -> dict[str, Any]:
        return {}

    def evaluate(self, batch: Batch) -> float:
        return 2.0

    def snapshot(self) -> Callable[[], tuple[dict[str, Any], dict[str, Any]]]:
        state = self.state | {"step": np.array(self.taken)} if "step" in self.state else self.state
        return lambda: (self.arrays, state)

    def load(self, weights: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        self.arrays, self.state = dict(weights), dict(state)


TABLE = parameter_table(MODEL)


class Numpy:
    name, room = "numpy", None

    def build(self, model: Any, optimizer: Any, step: Any, weights: Mapping[str, Any], seed: int) -> Still:
        return Still(weights)

    def describe(self, step: Any) -> str:
        return "numpy on paper"

    def memory(self, step: Any) -> int | None:
        return self.room

    def peak_flops(self, step: Any) -> None:
        return None


class Letters:
    name, fingerprint = "letters", "abc"

    def save(self, folder: Path) -> None:
        (folder / "letters.json").write_text("{}")


def plan_of(config: AppConfig = AppConfig(), steps: int = 4, **more: Any) -> Plan:  # noqa: B008
    kept: dict[str, Any] = {
        "config": config,
        "policy": POLICY,
        "command": "app --steps 4",
        "resume_command": "app --resume",
        "backend": "numpy",
        "seed": config.seed,
        "model": MODEL,
        "optimizer": OPTIMIZER,
        "step": StepConfig(),
        "schedule": schedule_of(config),
        "loop": LoopConfig(max_steps=steps, save_every=2),
        "batches": RandomWindows(TOKENS, 2, LengthRule(4, 4), config.seed),
        "evaluation": [frozen_batch(TOKENS, 2, 4, 0)],
        "data": "the letters",
        "training_tokens": len(TOKENS),
        "tokenizer": Letters(),
        "sample": Sample(lambda _, step: f"text of {step}", "temperature 1", at_saves=True),
        "next_steps": lambda folder: [f"sample: {folder}"],
    }
    return Plan(**kept | more)


def schedule_of(config: AppConfig) -> ScheduleConfig:
    return ScheduleConfig(peak_lr=config.rate)


def run(plan: Plan, folder: RunFolder, *, resume: bool = False, backend: Any = None) -> RunState:
    with session.opened(folder, AppConfig, POLICY, resume=resume) as known:
        if known:
            plan = replace(plan, checkpoint=known.checkpoint, has_tokenizer=True)
        return session.run(plan, folder, backend=cast("Backend", backend or Numpy()))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def newest(folder: RunFolder) -> Checkpoint | None:
    return session.newest_checkpoint(folder)


def content(folder: RunFolder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.path.rglob("*") if p.is_file() and p.name != "lock"}


@pytest.mark.usefixtures("drawn")
def test_a_run_leaves_everything_that_reads_a_run_looks_for(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    run(plan_of(), folder)
    names = {path.name for path in folder.path.iterdir()}
    assert names == {
        "config.toml", "tokenizer", "metrics.jsonl", "checkpoints", "samples.txt", "report.html", "result.json", "lock",
    }  # fmt: skip
    metadata = Checkpoints(folder.checkpoints).newest_metadata()
    assert (metadata["config"], metadata["tokenizer"]) == (
        {"seed": 0, "rate": 0.1},
        {"kind": "letters", "fingerprint": "abc"},
    )
    assert json.loads(folder.result.read_text())["step"] == 4
    assert folder.samples.read_text() == (
        "--- step 2, temperature 1 ---\ntext of 2\n--- step 4, temperature 1 ---\ntext of 4\n"
    )
    assert "data:image/svg+xml;base64," in (folder.path / "report.html").read_text()
    out = capsys.readouterr().out
    assert "validation loss 2.0000 -> 2.0000 nats" in out
    assert out.endswith(f"report: {folder.path / 'report.html'}\nsample: {folder.path}\n")


def test_a_complete_run_stays_as_it_is_and_one_without_its_end_gets_that(folder: RunFolder) -> None:
    run(plan_of(), folder)
    whole = content(folder)
    run(plan_of(), folder, resume=True)
    assert content(folder) == whole
    folder.result.unlink()
    folder.samples.write_text("--- step 2, temperature 1 ---\ntext of 2\n")
    run(plan_of(), folder, resume=True)
    assert content(folder) == whole


def test_samples_after_the_checkpoint_are_written_again(folder: RunFolder) -> None:
    run(plan_of(), folder)
    for path in Checkpoints(folder.checkpoints).files():
        if Checkpoints(folder.checkpoints).read(path).step == 4:
            path.unlink()
    before = folder.samples.read_text()
    run(plan_of(), folder, resume=True)
    assert folder.samples.read_text() == before


def test_a_run_without_validation_batches_has_no_validation_loss(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    run(plan_of(evaluation=()), folder)
    assert {record["kind"] for record in read_records(folder.metrics)} == {"train"}
    assert session.read_result(folder)["metrics.val_loss"] is None
    assert "validation loss" not in capsys.readouterr().out


@pytest.mark.parametrize("metadata", [{"step": 4}, {"step": 4, "state": {"step": 4, "mood": "good"}}])
def test_the_state_of_another_version_is_one_line(metadata: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="the checkpoint of step 4 has not the state that this version"):
        RunState.from_metadata(metadata)


def test_a_test_loss_that_is_not_finite_is_named(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Still, "evaluate", lambda *_: float("inf"))
    plan = plan_of(evaluation=(), test=[frozen_batch(TOKENS, 2, 4, 1)])
    with pytest.raises(NonFiniteError, match="step 4: test loss is inf; the checkpoint of this step is kept"):
        run(plan, folder)
    assert Checkpoints(folder.checkpoints).newest_metadata()["step"] == 4


def test_the_test_loss_is_measured_once_and_made_up_for(folder: RunFolder) -> None:
    run(plan_of(), folder)
    assert "metrics.test_loss" not in session.read_result(folder)
    run(plan_of(test=[frozen_batch(TOKENS, 2, 4, 1)]), folder, resume=True)
    assert session.read_result(folder)["metrics.test_loss"] == 2.0
    assert [json.loads(line)["kind"] for line in folder.metrics.read_text().splitlines()][-1] == "test"


@pytest.mark.parametrize("name", ["samples.txt", "report.html", "result.json"])
def test_a_disk_that_refuses_the_end_is_one_line_and_the_run_is_saved(
    folder: RunFolder, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.path.mkdir()
    plan = plan_of()

    def in_the_way(_trainer: Any, step: int) -> str:
        (folder.path / name).mkdir(exist_ok=True)
        return "text"

    run(replace(plan, sample=Sample(in_the_way, "temperature 1", at_saves=True)), folder)
    assert f"{name} not written" in capsys.readouterr().err
    assert Checkpoints(folder.checkpoints).newest_metadata()["step"] == 4


def test_a_disk_that_refuses_a_resume_leaves_the_result(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run(plan_of(), folder)
    before = content(folder)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunFolder, "prepare", full)
    with pytest.raises(UserError, match="No space left on device"):
        run(plan_of(loop=LoopConfig(max_steps=6)), folder, resume=True)
    assert content(folder) == before


def test_what_fails_at_the_start_leaves_nothing(folder: RunFolder) -> None:
    class Full(Letters):
        def save(self, folder: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write to .*: No space left on device"):
        run(plan_of(tokenizer=Full()), folder)
    assert not folder.path.exists()
    small = Numpy()
    small.room = 10
    with pytest.raises(UserError, match="training needs at least"):
        run(plan_of(), folder, backend=small)
    assert not folder.path.exists()


def test_a_new_run_takes_no_folder_that_holds_one_and_a_resumed_one_needs_it(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="holds no run"):
        run(plan_of(), folder, resume=True)
    run(plan_of(), folder)
    before = content(folder)
    with pytest.raises(UserError, match="already holds a run"):
        run(plan_of(), folder)
    assert content(folder) == before


def test_a_checkpoint_of_another_model_optimizer_or_tokenizer_does_not_fit(folder: RunFolder) -> None:
    run(plan_of(), folder)

    class Others(Letters):
        fingerprint = "xyz"

    wider = plan_of(model=MODEL.model_copy(update={"d_ff": 99}))
    for plan, said in (
        (wider, "model.d_ff is None in the checkpoint and 99 here"),
        (plan_of(tokenizer=Others()), "it was trained with another tokenizer"),
    ):
        with pytest.raises(UserError, match=said):
            run(plan, folder, resume=True)


def test_a_resume_says_and_records_what_it_changes(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run(plan_of(), folder)
    known = recorded(AppConfig, POLICY, folder, session.newest_checkpoint(folder))
    assert known.before == AppConfig()
    changed = plan_of(AppConfig(rate=0.2, resume=True), steps=6).resumed(known, schedule_of)
    assert list(changed.notes) == [
        "changed from step 5 on: rate 0.1 -> 0.2",
        "learning rate: 0.1 at step 4, 0.2 at step 5, 0.2 at step 6",
    ]
    with pytest.raises(UserError, match="seed is 0 in the run and 1 here"):
        plan_of(AppConfig(seed=1)).resumed(known, schedule_of)
    with session.opened(folder, AppConfig, POLICY, resume=True):
        session.run(replace(changed, has_tokenizer=True), folder, backend=cast("Backend", Numpy()))
    assert Checkpoints(folder.checkpoints).newest_metadata()["history"] == [
        {"step": 4, "key": "rate", "from": 0.1, "to": 0.2}
    ]
    assert "rate = 0.2" in folder.config.read_text()
    assert "resume" not in folder.config.read_text().splitlines()[1]


def test_a_config_toml_that_was_edited_is_reported_once_and_not_used(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    run(plan_of(), folder)
    folder.config.write_text(folder.config.read_text().replace("rate = 0.1", "rate = 0.5"))
    capsys.readouterr()
    with session.opened(folder, AppConfig, POLICY, resume=True) as known:
        assert known
        assert AppConfig.parse(known.base) == AppConfig()
    said = capsys.readouterr().err
    assert "rate 0.5 instead of 0.1" in said
    assert said.count("\n") == 1


def saved(of: Plan, step: int = 10) -> Recorded[AppConfig]:
    checkpoint = Checkpoint(Path("x"), {}, {}, {**of.checkpoint_metadata(), "step": step})
    return Recorded(checkpoint, {}, cast("AppConfig", of.config))


def test_data_counts_by_its_content_and_not_by_its_path() -> None:
    def reading(text: str, sha: str, **more: Any) -> Plan:
        config, place = TextConfig(text=text), {"text": "data.sha"}
        return plan_of(config, policy=POLICY_OF_TEXT, metadata={"data": {"sha": sha}}, content=place, **more)

    known = saved(reading("a.txt", "0" * 40))
    assert reading("b.txt", "0" * 40).resumed(known, schedule_of).notes == []
    assert reading("a.txt", "1" * 40).resumed(known, schedule_of).notes == [
        "note: text holds other data than the run was trained on",
        f"changed from step 11 on: text {'0' * 12} -> {'1' * 12}",
    ]
    unhashed = saved(plan_of(TextConfig(text="a.txt"), policy=POLICY_OF_TEXT))
    assert reading("a.txt", "1" * 40).resumed(unhashed, schedule_of).notes == []
    assert reading("b.txt", "1" * 40).resumed(unhashed, schedule_of).notes == [
        "changed from step 11 on: text a.txt -> b.txt"
    ]


@pytest.mark.parametrize("sha", ["0" * 40, "1" * 40])
def test_a_path_that_no_checkpoint_knows_yet_is_resumed(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], sha: str
) -> None:
    def reading(text: str, sha: str) -> Plan:
        return plan_of(TextConfig(text=text), policy=POLICY_OF_TEXT, metadata={"sha": sha}, content={"text": "sha"})

    run(reading("a.txt", "0" * 40), folder)
    changed = reading("b.txt", sha).resumed(recorded(TextConfig, POLICY_OF_TEXT, folder, newest(folder)), schedule_of)
    folder.prepare(changed.config_toml())
    with RunLog(folder.metrics, changed.history.step, 6) as log:
        changed.history.record(log)  # and is killed
    capsys.readouterr()
    assert recorded(TextConfig, POLICY_OF_TEXT, folder, newest(folder)).base["text"] == "b.txt"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("sha", "epochs"), [("0", 0), ("1", 1)])
def test_windows_are_counted_on_and_those_of_other_data_start_an_epoch(sha: str, epochs: int) -> None:
    def reading(rows: int, sha: str) -> Plan:
        windows = ShuffledWindows(TOKENS, rows, 4, 0)
        return plan_of(batches=windows, metadata={"sha": sha}, content={"text": "sha"}, policy=POLICY_OF_TEXT)

    read, per_epoch = 3 * 2, ShuffledWindows(TOKENS, 1, 4, 0).per_epoch
    made = reading(5, sha).resumed(saved(reading(2, "0"), step=3), schedule_of, batch_size=2)
    assert isinstance(made.batches, ShuffledWindows)
    assert made.batches.origin == Origin(3, epochs * per_epoch or read)


def test_a_run_of_which_nothing_was_saved_is_planned_as_a_new_one() -> None:
    plan = plan_of()
    assert plan.resumed(Recorded(None, {}, AppConfig(seed=7)), schedule_of) is plan


def test_the_config_of_an_older_format_is_read_under_today_s_keys() -> None:
    old = {"step": {"grad_clip": 1.0, "dtype": "float32"}, "optimizer": {"name": "adamw"}}
    new = {"step": {"dtype": "float32"}, "optimizer": {"name": "adamw", "grad_clip": 1.0}}
    assert upgraded(old, 1) == new
    assert upgraded(new, FORMAT) == new
    assert upgraded({"lr": 0.1}, 1) == {"lr": 0.1}
