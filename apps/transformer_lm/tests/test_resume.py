"""Training that goes on is the run that it was: what it may change is recorded, and its data goes on where it was."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.errors import UserError
from lm_core.model.init import initial_arrays
from lm_core.model.parameters import parameter_table
from lm_core.optim import state_shapes
from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.state import RunState
from lm_pipeline.tokens.named import Corpus
from lm_tokenizer.adapters import train_tokenizer
from transformer_lm import cli
from transformer_lm.flags import Flags
from transformer_lm.save_folder import Found
from transformer_lm.workload import Workload, plan, resumed

STEP = 10
BEFORE = Flags(context_size=4, num_blocks=1, dim=8, num_heads=1, batch_size=4, num_iters=20)


@dataclass
class Ids:
    """Stands for a token file."""

    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


def workload(flags: Flags, text: str = "a" * 64) -> Workload:
    splits: Any = {name: Ids(np.arange(300, dtype=np.uint16) % 7) for name in ("train", "validation", "test")}
    return plan(flags, Corpus(train_tokenizer("characters", ["abcdefg\n"]), splits, text))


def saved(of: Workload, step: int = STEP, **facts: object) -> Checkpoint:
    return Checkpoint(Path("none"), {}, {}, {**of.facts, "step": step, **facts})


def changed(**flags: Any) -> Flags:
    return BEFORE.model_copy(update=flags)


def test_what_changes_results_is_kept_and_told() -> None:
    flags = changed(learning_rate=1e-2, batch_size=6, top_k=1, num_iters=30)
    after, notes = resumed(workload(flags), saved(workload(BEFORE)), BEFORE)
    assert {entry["key"]: entry["to"] for entry in after.facts["history"]} == {
        "batch_size": 6, "num_iters": 30, "learning_rate": 1e-2,
    }  # fmt: skip
    assert notes == [
        "changed from step 11 on: batch_size 4 -> 6; num_iters 20 -> 30; learning_rate 0.0003 -> 0.01",
        "learning rate: 0.0003 at step 10, 0.01 at step 11, 0.01 at step 30",
    ]
    assert after.facts["config"]["batch_size"] == 6
    again, silent = resumed(workload(flags), saved(after, 12), flags)
    assert silent == []
    assert again.facts["history"] == after.facts["history"]


def test_another_batch_size_goes_on_in_the_data_where_it_was() -> None:
    before = workload(BEFORE)
    after, _ = resumed(workload(changed(batch_size=6)), saved(before), BEFORE)
    rows = np.concatenate(
        [before.batches.batch(s).inputs for s in range(1, STEP + 1)] + [after.batches.batch(11).inputs]
    )
    one_by_one = workload(changed(batch_size=1)).batches
    assert np.array_equal(rows, np.concatenate([one_by_one.batch(i + 1).inputs for i in range(len(rows))]))


@pytest.mark.parametrize("size", [4, 6])
def test_a_checkpoint_of_before_counts_by_the_batch_size_that_it_names(size: int) -> None:
    """Whatever config.toml says by now."""
    old = saved(workload(changed(batch_size=size)))
    for key in ("config", "history", "origin"):
        del old.facts[key]
    after, _ = resumed(workload(changed(batch_size=6)), old, BEFORE)
    assert after.batches.origin.seen(STEP, 6) == STEP * size
    same, _ = resumed(workload(changed(batch_size=size)), old, changed(batch_size=size))
    assert np.array_equal(same.batches.batch(11).inputs, workload(changed(batch_size=size)).batches.batch(11).inputs)


def test_another_text_is_said_and_read_from_the_beginning_of_an_epoch() -> None:
    after, notes = resumed(workload(BEFORE, "b" * 64), saved(workload(BEFORE)), BEFORE)
    assert notes[0] == "note: ptb is another text than the one that this run began with"
    assert after.history.changes[0].key == "data_dir"
    assert after.batches.origin.windows % after.batches.per_epoch == 0


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Found:
    """A run that has come to its end."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    run, of = RunFolder(tmp_path / "001-ptb"), workload(BEFORE)
    run.prepare(BEFORE.of_run.to_toml())
    shapes = state_shapes(of.optimizer, parameter_table(of.model))
    state = {name: np.ones(shape, np.int64 if name == "step" else np.float32) for name, shape in shapes.items()}
    facts = {**of.facts, "step": 20, "state": {**vars(RunState()), "step": 20}}
    Checkpoints(run.checkpoints).save(initial_arrays(of.model, 0), state, facts)
    return Found(run, Checkpoints(run.checkpoints).newest(pytest.fail), newest=True)


def test_flags_go_over_those_of_the_checkpoint_and_not_of_an_edited_config(
    found: Found, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli._flags_over(found, ["--num_iters", "30"], cli.FIXED) == changed(num_iters=30)
    assert capsys.readouterr().err == ""
    for edited in (found.run.config.read_text().replace("batch_size = 4", "batch_size = 9"), ""):
        found.run.config.write_text(edited)
        assert cli._flags_over(found, ["--num_iters", "30"], cli.FIXED) == changed(num_iters=30)
        said = capsys.readouterr().err
        assert "config.toml is not what the run was trained with, and is not used: it says" in said
        assert ("batch_size 9 and not 4" in said) or ("context_size 48 and not 4" in said)


@pytest.mark.parametrize("words", [["--seed", "1"], ["--dim", "16"], ["--dataset", "enwik8"]])
def test_what_a_run_stands_on_is_refused(found: Found, words: list[str]) -> None:
    name, value = words
    with pytest.raises(UserError, match=rf"has {name} .*, not {value}: leave these flags out, or give --new_model"):
        cli._flags_over(found, words, cli.FIXED)
    assert cli._flags_over(found, ["--seed", "1"], cli.SHAPE).seed == 1, "a prompt may have any seed"
