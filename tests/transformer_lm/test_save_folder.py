"""The save folder of transformer_lm: which run is resumed, started or refused."""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lm_core.disk.lock import Lock
from lm_core.run import session

from .runs import App, content, losses, newest, records


def test_the_newest_run_goes_on_unless_a_new_one_is_asked_for(train: App) -> None:
    train("--num_iters", 3, "--save_dir", "s")
    before = content(Path("s/001-ptb"))
    assert "run folder s/002-ptb" in train("--num_iters", 3, "--save_dir", "s", "--new_model", "--dim", 32).err
    assert content(Path("s/001-ptb")) == before
    for path in Path("s/002-ptb").rglob("*"):
        os.utime(path, (0, 0))  # whatever the clock says
    said = train("--num_iters", 5, "--save_dir", "s", "--dim", 32).err
    assert "resuming s/002-ptb at step 3 of 5" in said
    assert newest(Path("s/002-ptb")).metadata["parent"]
    assert newest(Path("s/002-ptb")).step == 5
    assert (
        "s/002-ptb is complete at step 5; nothing was changed"
        in train("--num_iters", 5, "--save_dir", "s", "--dim", 32).err
    )
    assert content(Path("s/001-ptb")) == before


def test_an_older_checkpoint_begins_a_run_with_the_records_up_to_there(train: App, app: App) -> None:
    train("--num_iters", 10, "--steps_per_save", 5, "--save_dir", "s")
    first = Path("s/001-ptb")
    before = content(first)
    [older] = [path for path in first.glob("checkpoints/*.metadata") if path != newest(first).path]
    done = train("--identifier", older.stem[:6].upper(), "--num_iters", 10, "--save_dir", "s", "--learning_rate", 0.01)
    assert f"starting a new run from checkpoint {older.stem[:12]} of s/001-ptb (step 5)" in done.err
    assert "run folder s/002-ptb" in done.err
    assert content(first) == before
    second = Path("s/002-ptb")
    assert records(second)[:6] == records(first)[:6]
    assert records(second)[6]["loss_nats"] == records(first)[6]["loss_nats"], "the loss before a step of another size"
    assert losses(second)[7:] != losses(first)[7:]
    assert "resuming s/002-ptb at step 10 of 12" in app("--save_dir", "s", "--num_iters", 12).err
    named = newest(second).path.stem
    said = train("--save_dir", "s", "--identifier", named, "--num_iters", 13).err
    assert "resuming s/002-ptb at step 12 of 13" in said, "the newest of all: the run itself goes on"
    assert not Path("s/003-ptb").exists()


def test_a_run_begun_from_another_and_killed_at_once_does_not_begin_at_0(
    train: App, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("--num_iters", 10, "--steps_per_save", 5, "--save_dir", "s")
    [older] = [path for path in Path("s").glob("*/checkpoints/*.metadata") if path != newest(Path("s/001-ptb")).path]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "train", killed)
        assert app("--save_dir", "s", "--identifier", older.stem).code == 130
    assert "resuming s/002-ptb at step 5 of 10" in train("--save_dir", "s", "--num_iters", 10).err
    assert records(Path("s/002-ptb")) == records(Path("s/001-ptb"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dim", 32], "dim is 16 in the run and 32 here: "),
        (
            ["--dataset", "wikitext2", "--num_blocks", 2],
            "dataset is ptb in the run and wikitext2 here; num_blocks is 1 in the run and 2 here: ",
        ),
        (["--tokenizer", "tiktoken:gpt2"], "tokenizer is none in the run and tiktoken:gpt2 here: "),
        (["--identifier", "ffff"], "--identifier ffff: no checkpoint in s has this name; there is: "),
        (["--identifier", "fff"], "--identifier fff: give 4 letters or more"),
        (["--identifier", "ffff", "--new_model"], "--new_model and --identifier contradict each other"),
        (["--inference", "--new_model"], "--new_model and --inference contradict each other"),
        (["--context_size", 9, "--inference"], "context_size is 8 in the run and 9 here: "),
    ],
)
def test_what_does_not_fit_the_run_is_one_line_and_changes_nothing(
    train: App, app: App, words: Sequence[object], said: str
) -> None:
    train("--num_iters", 3, "--save_dir", "s")
    before = content(Path("s"))
    done = app("--save_dir", "s", *words)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    after = content(Path("s"))
    assert {path: after[path] for path in after if path.name != "lock"} == {
        path: before[path] for path in before if path.name != "lock"
    }


def test_a_vocabulary_from_elsewhere_is_refused(train: App, app: App) -> None:
    train("--num_iters", 3, "--save_dir", "s")
    path = Path("s/001-ptb/tokenizer/words.json")
    path.write_text(path.read_text().replace('"w1"', '"v1"'))
    for words in ([], ["--inference"]):
        done = app("--save_dir", "s", *words)
        assert done.code == 2
        assert "the tokenizer in s/001-ptb/tokenizer is not the one that the checkpoint was made with" in done.err


def test_a_second_process_is_refused_but_may_ask_the_model(
    train: App, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("--num_iters", 3, "--save_dir", "s")
    with Lock(Path("s")):
        done = app("--save_dir", "s")
        assert done.code == 2
        assert f"s is in use by process {os.getpid()}" in done.err
        monkeypatch.setattr(sys, "stdin", io.StringIO("w1\n"))
        assert app("--save_dir", "s", "--inference").code == 0


def test_the_identifier_of_a_complete_run_makes_no_new_one(train: App, app: App) -> None:
    train("--num_iters", 5, "--save_dir", "s")
    named = newest(Path("s/001-ptb")).path.stem
    train("--num_iters", 5, "--save_dir", "s", "--new_model", "--seed", 7)
    said = train("--num_iters", 5, "--save_dir", "s", "--identifier", named).err
    assert "is complete: --num_iters above 5 starts a new run there" in said
    assert not Path("s/003-ptb").exists()
