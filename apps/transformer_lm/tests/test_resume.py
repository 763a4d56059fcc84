"""Training that goes on is the run that it was: what it may change is recorded, and its data goes on where it was."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.cli import parse_flags
from lm_core.data.batches import ShuffledWindows
from lm_core.errors import UserError
from lm_core.model.init import initial_arrays
from lm_core.model.parameters import parameter_table
from lm_core.optim import state_shapes
from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan
from lm_core.run.resume import Recorded
from lm_core.run.state import RunState
from lm_pipeline.tokens.named import Corpus
from lm_tokenizer.adapters import train_tokenizer
from transformer_lm import cli
from transformer_lm.flags import Flags
from transformer_lm.save_folder import Found
from transformer_lm.workload import plan, resumed

STEP = 10
BEFORE = Flags(context_size=4, num_blocks=1, dim=8, num_heads=1, batch_size=4, num_iters=20)


@dataclass
class Ids:
    """Stands for a token file."""

    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


def workload(flags: Flags, text: str = "a" * 64) -> Plan:
    splits: Any = {name: Ids(np.arange(300, dtype=np.uint16) % 7) for name in ("train", "validation", "test")}
    return plan(flags, Corpus(train_tokenizer("characters", ["abcdefg\n"]), splits, text), Path("save"))


def saved(of: Plan, step: int = STEP, **metadata: object) -> Checkpoint:
    return Checkpoint(Path("none"), {}, {}, {**of.checkpoint_metadata(), "step": step, **metadata})


def going_on(flags: Flags, checkpoint: Checkpoint, before: Flags = BEFORE, text: str = "a" * 64) -> Plan:
    return resumed(workload(flags, text), Recorded(checkpoint, {}, before))


def changed(**flags: Any) -> Flags:
    return BEFORE.model_copy(update=flags)


def test_what_changes_results_is_kept_and_told() -> None:
    flags = changed(learning_rate=1e-2, batch_size=6, top_k=1, num_iters=30)
    after = going_on(flags, saved(workload(BEFORE)))
    assert {entry["key"]: entry["to"] for entry in after.checkpoint_metadata()["history"]} == {
        "batch_size": 6, "num_iters": 30, "learning_rate": 1e-2,
    }  # fmt: skip
    assert list(after.notes) == [
        "changed from step 11 on: batch_size 4 -> 6; num_iters 20 -> 30; learning_rate 0.0003 -> 0.01",
        "learning rate: 0.0003 at step 10, 0.01 at step 11, 0.01 at step 30",
    ]
    assert after.checkpoint_metadata()["config"]["batch_size"] == 6
    again = going_on(flags, saved(after, 12), flags)
    assert list(again.notes) == []
    assert again.checkpoint_metadata()["history"] == after.checkpoint_metadata()["history"]


def test_another_batch_size_goes_on_in_the_data_where_it_was() -> None:
    before = workload(BEFORE)
    after = going_on(changed(batch_size=6), saved(before))
    rows = np.concatenate(
        [before.batches.batch(s).inputs for s in range(1, STEP + 1)] + [after.batches.batch(11).inputs]
    )
    one_by_one = workload(changed(batch_size=1)).batches
    assert np.array_equal(rows, np.concatenate([one_by_one.batch(i + 1).inputs for i in range(len(rows))]))


@pytest.mark.parametrize("size", [4, 6])
def test_a_checkpoint_of_before_counts_by_the_batch_size_that_it_names(size: int) -> None:
    """Whatever config.toml says by now."""
    old = saved(workload(changed(batch_size=size)), batches={"seed": 42, "batch_size": size, "seq_len": 4})
    for key in ("config", "history", "origin"):
        del old.metadata[key]
    after = going_on(changed(batch_size=6), old)
    assert isinstance(after.batches, ShuffledWindows)
    assert after.batches.origin.seen(STEP, 6) == STEP * size
    same = going_on(changed(batch_size=size), old, changed(batch_size=size))
    assert np.array_equal(same.batches.batch(11).inputs, workload(changed(batch_size=size)).batches.batch(11).inputs)


def test_another_text_is_said_and_read_from_the_beginning_of_an_epoch() -> None:
    after = going_on(BEFORE, saved(workload(BEFORE)), text="b" * 64)
    assert after.notes[0] == "note: data_dir holds other data than the run was trained on"
    assert isinstance(after.batches, ShuffledWindows)
    assert after.history.changes[0].key == "data_dir"
    assert after.batches.origin.windows % after.batches.per_epoch == 0


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Found:
    """A run that has come to its end."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    run, of = RunFolder(tmp_path / "001-ptb"), workload(BEFORE)
    run.prepare(BEFORE.absolute.to_toml())
    shapes = state_shapes(of.optimizer, parameter_table(of.model))
    state = {name: np.ones(shape, np.int64 if name == "step" else np.float32) for name, shape in shapes.items()}
    metadata = {**of.checkpoint_metadata(), "step": 20, "state": {**vars(RunState()), "step": 20}}
    Checkpoints(run.checkpoints).save(initial_arrays(of.model, 0), state, metadata)
    return Found(run, Checkpoints(run.checkpoints).newest(pytest.fail), newest=True)


def test_flags_go_over_those_of_the_checkpoint_and_not_of_an_edited_config(
    found: Found, capsys: pytest.CaptureFixture[str]
) -> None:
    for edited in (
        found.run.config.read_text(),
        found.run.config.read_text().replace("batch_size = 4", "batch_size = 9"),
        "",
    ):
        found.run.config.write_text(edited)
        known = cli._known(found)
        assert parse_flags(Flags, "app", ["--num_iters", "30"], known.base) == changed(num_iters=30)
        assert ("config.toml differs" in capsys.readouterr().err) == ("batch_size = 4" not in edited)


@pytest.mark.parametrize("words", [["--seed", "1"], ["--dim", "16"], ["--dataset", "enwik8"]])
def test_what_a_run_stands_on_is_refused_before_a_dataset_is_looked_for(
    found: Found, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, value = words
    monkeypatch.setattr(cli, "_find", lambda *_: found)
    monkeypatch.setattr(cli, "load_corpus", lambda *_: pytest.fail("a dataset is looked for"))
    said = rf"{name.removeprefix('--')} is .* in the run and {value} here: .*leave these flags out, or give --new_model"
    with pytest.raises(UserError, match=said):
        cli.run([*words, "--save_dir", str(found.run.path.parent)])
