"""A run that is resumed: what a session says of it, records of it, and reads on from; and its start."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from lm_core.backend import Backend
from lm_core.data.batches import Origin, ShuffledWindows
from lm_core.errors import UserError
from lm_core.run import session
from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.folder import FORMAT, RunFolder, upgraded
from lm_core.run.log import RunLog
from lm_core.run.plan import Plan
from lm_core.run.resume import Recorded, recorded

from .small_runs import (
    POLICY,
    POLICY_OF_TEXT,
    TOKENS,
    AppConfig,
    Letters,
    Numpy,
    Still,
    TextConfig,
    content,
    plan_of,
    run,
    schedule_of,
)  # fmt: skip


def newest(folder: RunFolder) -> Checkpoint | None:
    return session.newest_checkpoint(folder)


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
        session.run(changed, folder, backend=cast("Backend", Numpy()))
    assert Checkpoints(folder.checkpoints).newest_metadata()["history"] == [
        {"step": 4, "key": "rate", "from": 0.1, "to": 0.2}
    ]
    assert "rate = 0.2" in folder.config.read_text()
    assert "resume" not in folder.config.read_text().splitlines()[1]


class Choosing(Numpy):
    """Another machine, where another kernel is the fast one."""

    def __init__(self, machine: str, kernel: str):
        self.chosen = {"machine": machine, "kernel": kernel}

    def build(self, *args: Any) -> Still:
        trainer = super().build(*args)
        trainer.chosen = self.chosen
        return trainer


def test_a_resume_repeats_what_was_chosen_and_reports_another_machine(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    run(plan_of(), folder, backend=Choosing("A", "plain"))
    assert "machine: A; kernel: plain\n" in capsys.readouterr().err
    run(plan_of(steps=6), folder, resume=True, backend=Choosing("B", "wide"))
    said = capsys.readouterr().err
    assert "machine: B; kernel: plain\n" in said
    assert "the run was computed with machine: A; from here on its rounding may differ\n" in said
    assert Checkpoints(folder.checkpoints).newest_metadata()["choices"] == {"machine": "B", "kernel": "plain"}
    run(plan_of(steps=8), folder, resume=True, backend=Choosing("B", "wide"))
    assert "may differ" not in capsys.readouterr().err


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


@pytest.mark.parametrize("saved", [True, False])
def test_a_resume_with_another_tokenizer_is_refused_before_anything_is_written(folder: RunFolder, saved: bool) -> None:
    """It is another one than the run folder has, whether a checkpoint names it or none was saved."""
    run(plan_of(steps=2), folder)
    if not saved:
        shutil.rmtree(folder.checkpoints)

    class Others(Letters):
        fingerprint = "xyz"

    before = content(folder)
    with pytest.raises(UserError, match="trained with another tokenizer"):
        run(plan_of(tokenizer=Others()), folder, resume=True)
    (folder.tokenizer / "letters.json").write_text("xyz")
    changed = content(folder)
    said = "is not the one that the run was trained with" if saved else "another tokenizer: give the run's own text"
    with pytest.raises(UserError, match=said):
        run(plan_of(), folder, resume=True)
    assert content(folder) == changed
    assert {name for name in before if before[name] != changed[name]} == {"letters.json"}


def test_a_tokenizer_that_is_there_is_kept_and_one_that_is_not_is_written(folder: RunFolder) -> None:
    folder.tokenizer.mkdir(parents=True)
    (folder.tokenizer / "letters.json").write_text("other")
    with pytest.raises(UserError, match="tokenizer holds another tokenizer, which a run would replace"):
        run(plan_of(), folder)
    (folder.tokenizer / "letters.json").unlink()
    run(plan_of(), folder)
    assert (folder.tokenizer / "letters.json").read_text() == "abc"
    when = (folder.tokenizer / "letters.json").stat().st_mtime_ns
    run(plan_of(steps=6), folder, resume=True)
    assert (folder.tokenizer / "letters.json").stat().st_mtime_ns == when


class Noted:
    """A sink that notes how it is closed."""

    def __init__(self) -> None:
        self.closed: list[bool] = []

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Nothing is kept."""

    def saved(self, metadata: Path, step: int, best: bool) -> None:
        """Nothing is kept."""

    def close(self, failed: bool) -> None:
        self.closed.append(failed)


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl"])
def test_sinks_are_closed_where_the_run_does_not_start(folder: RunFolder, name: str) -> None:
    (folder.path / name / "in the way").mkdir(parents=True)
    sink = Noted()
    with pytest.raises(UserError, match=f"cannot write .*{name}|cannot write to"), folder.hold():
        session.run(plan_of(sinks=lambda *_: [sink]), folder, backend=cast("Backend", Numpy()))
    assert sink.closed == [True]
