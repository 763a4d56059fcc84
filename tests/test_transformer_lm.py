"""transformer_lm as its users meet it: runs, signals, save folders and prompts, on either backend."""

import io
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.disk.lock import Lock
from lm_core.errors import exit_code_of
from lm_core.run import session
from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import TIMING_FIELDS
from lm_tokenizer import Tokenizer
from transformer_lm import cli

PROGRAM = Path(__file__).resolve().parents[1] / "apps" / "transformer_lm"
BACKENDS = ["torch", "mlx"]
LAYOUTS = {
    "ptb": ("ptb", "ptb.{}.txt"),
    "tokens": ("wikitext2", "wiki.{}.tokens"),
    "txt": ("wikitext2", "wiki.{}.txt"),
    "bytes": ("enwik8", "enwik8"),
}
SMALL = [
    *("--dim", "16", "--num_blocks", "1", "--num_heads", "2", "--context_size", "8"),
    *("--batch_size", "4", "--sample_tokens", "8"),
]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


App = Callable[..., Done]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small texts in the layouts that the datasets are found in, a folder each."""
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(0)

    def text(lines: int) -> str:
        return "".join(" " + " ".join(f"w{draw.randrange(30)}" for _ in range(10)) + " \n" for _ in range(lines))

    for name, (_, pattern) in LAYOUTS.items():
        (folder / name).mkdir()
        for split, lines in {"train": 60, "valid": 8, "test": 8}.items():
            (folder / name / pattern.format(split)).write_text(text(lines))
    (folder / "bytes" / "enwik8").write_bytes(b"<page>\xff\x00\x1b[31m" + text(100).encode())
    return folder


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> App:
    """The program, in this process and an empty folder; flushing and drawing are tested elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(session, "write_report", lambda folder: folder / "report.html")

    def call(*words: object) -> Done:
        capsys.readouterr()
        code = exit_code_of(lambda: cli.run([*map(str, words)]), "transformer_lm")
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def train(app: App, data: Path) -> App:
    """A small run on the words of `ptb`, validated every 5 iterations, logged at every one, that succeeds."""

    def call(*words: object) -> Done:
        done = app("--data_dir", data / "ptb", *SMALL, "--steps_per_report", 1, "--steps_per_eval", 5, *words)
        assert done.code == 0, done.err
        return done

    return call


def records(run: Path) -> list[dict[str, Any]]:
    """The metrics without the fields that measure time, and without what was changed of the run when it went on."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if line["kind"] != "resume"]
    return [{key: value for key, value in line.items() if key not in TIMING_FIELDS} for line in measured]


def losses(run: Path) -> list[float]:
    return [record["loss_nats"] for record in records(run)]


def newest(run: Path) -> Checkpoint:
    checkpoint = Checkpoints(run / "checkpoints").newest(pytest.fail)
    assert checkpoint is not None
    return checkpoint


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_same_run(ours: Path, theirs: Path) -> None:
    a, b = newest(ours), newest(theirs)
    assert a.path.name == b.path.name, "the name is the hash of the weights"
    assert a.optimizer_state.keys() == b.optimizer_state.keys()
    for name, array in a.optimizer_state.items():
        assert array.tobytes() == b.optimizer_state[name].tobytes(), name
    assert records(ours) == records(theirs)


# One answer on two backends


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_on_either_backend_goes_on_on_the_other_and_all_agree(app: App, data: Path, layout: str) -> None:
    dataset, _ = LAYOUTS[layout]
    flags = ["--dataset", dataset, "--data_dir", data / layout, *SMALL, "--steps_per_report", 1, "--steps_per_eval", 5]
    for first, second in zip(BACKENDS, reversed(BACKENDS), strict=True):
        assert app(*flags, "--save_dir", first, "--num_iters", 10, "--backend", first).code == 0
        done = app("--save_dir", first, "--num_iters", 15, "--backend", second)
        assert done.code == 0, done.err
        assert "resuming " in done.err
    ours, theirs = (Path(backend) / f"001-{dataset}" for backend in BACKENDS)
    assert [(record["kind"], record["step"]) for record in records(ours)] == [
        (kind, step) for step in range(1, 16) for kind in ("train", "eval") if kind == "train" or step % 5 == 0
    ]
    figure = "bits_per_byte" if dataset == "enwik8" else "perplexity"
    assert all(figure in record for record in records(ours) if record["kind"] == "eval")
    np.testing.assert_allclose(losses(ours), losses(theirs), rtol=0, atol=1e-4)
    samples = (ours / "samples.txt").read_bytes()
    assert samples.startswith(b"--- step 10, ")
    assert b"--- step 15, " in samples
    assert samples == (theirs / "samples.txt").read_bytes()


def test_prompts_of_a_pipe_are_continued_alike_on_both_backends(
    app: App, train: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = app("--inference", "--save_dir", "runs/none")
    assert refused.code == 2
    assert "there is no checkpoint in runs/none: train a model first" in refused.err
    assert refused.err.count("\n") == 1
    assert not Path("runs").exists()
    train("--num_iters", 5)
    said = []
    for backend in BACKENDS:
        monkeypatch.setattr(sys, "stdin", io.StringIO("w1 w2\nw3 newt\n"))
        done = app("--inference", "--backend", backend, "--seed", 3)
        assert done.code == 0
        assert "line 2: note: not in the vocabulary, and read as <unk>: 'newt'" in done.err
        said.append(done.out)
    assert said[0] == said[1]
    assert said[0].startswith("w1 w2 w")
    assert len(said[0].split()) > 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_checkpointing_changes_no_loss(train: App, backend: str) -> None:
    for name, words in {"plain": [], "less": ["--checkpoint"]}.items():
        train("--save_dir", name, "--num_iters", 5, "--dropout", 0.1, "--backend", backend, *words)
    np.testing.assert_allclose(losses(Path("plain/001-ptb")), losses(Path("less/001-ptb")), rtol=0, atol=1e-6)


def test_the_test_split_is_measured_when_training_has_ended_or_afterwards(train: App) -> None:
    runs = Path("runs/transformer-lm")
    assert "test loss" not in train("--num_iters", 5).out
    said = train("--num_iters", 5, "--eval_test")
    assert '"kind": "test", "step": 5' in said.out
    assert records(runs / "001-ptb")[-1]["kind"] == "test"
    train("--num_iters", 6)
    assert records(runs / "001-ptb")[-1]["kind"] == "train", "--eval_test is of one call"


def test_another_tokenizer_is_carried_by_the_run(train: App, app: App, data: Path, tmp_path: Path) -> None:
    text = (data / "ptb" / "ptb.train.txt").read_text()
    Tokenizer.train([text], 280, [], progress=False).save(tmp_path / "tok")
    train("--tokenizer", "tok", "--num_iters", 3)
    train("--tokenizer", "tok", "--num_iters", 5)
    run = tmp_path / "runs/transformer-lm/001-ptb"
    assert "bits_per_byte" in records(run)[-1]
    (tmp_path / "tok").rename(tmp_path / "gone")
    assert app("--num_iters", 6).code == 0


# Stopped and gone on with


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(60_000):
        if what():
            return
        time.sleep(0.002)
    raise AssertionError("it did not come that far")


@pytest.mark.parametrize(
    ("backend", "signals", "code"),
    [
        ("torch", [signal.SIGINT], 0),
        ("mlx", [signal.SIGTERM], 0),
        ("mlx", [signal.SIGINT, signal.SIGINT], 130),
        ("mlx", [signal.SIGKILL], -9),
    ],
)
def test_a_run_stopped_anyhow_goes_on_to_the_same_bits(
    app: App, data: Path, backend: str, signals: Sequence[signal.Signals], code: int
) -> None:
    flags = ["--data_dir", str(data / "ptb"), *SMALL, "--backend", backend, "--steps_per_save", "16"]
    flags += ["--steps_per_eval", "10", "--steps_per_report", "5"]
    slow = ["--sample_tokens", "300"] if len(signals) > 1 else []  # time for the second signal
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), *flags, *slow, "--save_dir", "cut"], stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr
    run = Path("cut/001-ptb")
    wait_for(lambda: any(run.glob("checkpoints/*.metadata")))
    process.send_signal(signals[0])
    for number in signals[1:]:
        for line in process.stderr:
            if "finishing this step, then saving" in line:
                time.sleep(0.3)  # longer than an echo
                break
        process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == code, said
    again = ["--save_dir", "cut"]
    if code == 0:
        [line] = [line for line in said.splitlines() if "; to resume: " in line]
        assert line.startswith(f"saved at step {newest(run).step} of 100,000; ")
        again = shlex.split(line.partition("to resume: uv run apps/transformer_lm ")[2])
    end = ["--num_iters", newest(run).step + 15, "--sample_tokens", 0]
    done = app(*again, *end)
    assert done.code == 0, done.err
    assert app(*flags, *end, "--save_dir", "whole").code == 0
    assert_same_run(run, Path("whole/001-ptb"))


def test_a_run_killed_before_its_first_save_is_passed_over_and_begins_again_where_there_is_no_other(
    train: App, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("--num_iters", 5, "--save_dir", "s")
    train("--num_iters", 5, "--save_dir", "s", "--new_model", "--seed", 7)
    second = Path("s/002-ptb")
    whole = records(second)
    shutil.rmtree(second / "checkpoints")
    monkeypatch.setattr(sys, "stdin", io.StringIO("w1\n"))
    assert app("--inference", "--save_dir", "s").code == 0
    said = train("--save_dir", "s").err
    assert "note: 002-ptb is newer and has no checkpoint: skipped" in said
    assert "s/001-ptb is complete at step 5" in said
    shutil.rmtree("s/001-ptb/checkpoints")
    said = train("--save_dir", "s").err
    assert "run s/002-ptb, which has no checkpoint: starting again at step 0, as a new run" in said
    assert records(second)[: len(whole)] == whole
    assert records(Path("s/003-ptb"))[: len(whole)] == whole


def test_a_stop_before_the_first_iteration_says_so(train: App, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Interrupts):
        def __init__(self) -> None:
            super().__init__()
            self.requested = True

    monkeypatch.setattr(session, "Interrupts", Asked)
    assert "nothing was trained yet; to resume: uv run apps/transformer_lm --save_dir" in train().err


def test_a_full_disk_holds_up_neither_training_nor_the_last_word(train: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session, "write_report", full)
    train("--num_iters", 2)
    run = Path("runs/transformer-lm/001-ptb")
    (run / "samples.txt").unlink()
    (run / "samples.txt").mkdir()
    said = train("--num_iters", 4, "--steps_per_save", 1).err
    assert said.count("samples.txt not written: Is a directory; the run itself is saved") == 2
    assert "report.html not written: No space left on device" in said
    assert newest(run).step == 4


# The save folder


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


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(train: App, app: App) -> None:
    train("--num_iters", 10, "--steps_per_save", 5, "--save_dir", "s")
    last = newest(Path("s/001-ptb")).path
    last.with_suffix(".safetensors").write_bytes(b"torn")
    said = train("--save_dir", "s", "--num_iters", 10).err
    assert f"checkpoint skipped: {last.stem}.safetensors is malformed" in said
    assert "at step 5 of 10" in said
    assert newest(Path("s/001-ptb")).path == last, "the same bits again"
    for path in Path("s/001-ptb/checkpoints").glob("*.safetensors"):
        path.write_bytes(b"torn")
    before = content(Path("s"))
    done = app("--save_dir", "s")
    assert done.code == 2
    assert "no checkpoint in s is intact: give --new_model to start another model" in done.err
    done = app("--save_dir", "s", "--identifier", last.stem)
    assert done.code == 2
    assert f"--identifier {last.stem}: {last.stem}.safetensors is malformed" in done.err
    assert content(Path("s")) == before


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


def test_a_pipe_in_the_place_of_the_samples_holds_up_nothing(train: App) -> None:
    train("--num_iters", 5, "--save_dir", "s")
    Path("s/001-ptb/samples.txt").unlink()
    os.mkfifo("s/001-ptb/samples.txt")
    done = train("--num_iters", 6, "--save_dir", "s")
    assert done.code == 0
    assert "samples.txt not written: not a regular file" in done.err


def test_a_run_whose_data_has_moved_says_how_to_go_on(train: App, app: App) -> None:
    train("--num_iters", 5, "--save_dir", "s")
    done = app("--num_iters", 6, "--save_dir", "s", "--data_dir", "gone")
    assert done.code == 2
    assert "--data_dir gone, where the run had its data, is not there: give its new place" in done.err
