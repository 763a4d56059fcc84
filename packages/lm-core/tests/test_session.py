"""A session over a backend of plain numpy: what a run folder holds at each end of a run, and what is never lost."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lm_core.config import LoopConfig
from lm_core.data.batches import frozen_batch
from lm_core.errors import NonFiniteError, UserError
from lm_core.run import session
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.log import read_records
from lm_core.run.plan import Sample
from lm_core.run.state import RunState

from .small_runs import MODEL, TOKENS, Letters, Numpy, Still, content, plan_of, run


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


@pytest.mark.parametrize(
    "wrong",
    [{"step": "4"}, {"step": 4.5}, {"step": True}, {"seconds": None}, {"best_val_loss": [1]}, {"best_step": None}],
)
def test_a_state_of_other_types_is_one_line(wrong: dict[str, Any]) -> None:
    whole = {"step": 4, "seconds": 1, "best_val_loss": 2, "first_val_loss": 2.5}
    assert RunState.from_metadata({"step": 4, "state": whole}) == RunState(**whole)
    [name] = wrong
    with pytest.raises(UserError, match=f"the checkpoint of step 4 is damaged: the {name} of its state is ") as caught:
        RunState.from_metadata({"step": 4, "state": whole | wrong})
    assert "\n" not in str(caught.value)


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
        (plan_of(tokenizer=Others()), "was trained with another tokenizer"),
    ):
        with pytest.raises(UserError, match=said):
            run(plan, folder, resume=True)
