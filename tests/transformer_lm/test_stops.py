"""A run of transformer_lm that is stopped anyhow, or meets a disk that fails, and is resumed."""

import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lm_core.run import session
from lm_core.run.interrupts import Interrupts

from .runs import PROGRAM, SMALL, App, assert_same_run, content, newest, records

WITHOUT_REPORT = """
from lm_core.run import session
from transformer_lm.cli import main

session.write_report = lambda folder: folder / "report.html"
raise SystemExit(main())
"""


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
    program = ["-c", WITHOUT_REPORT] if code == 0 else [str(PROGRAM)]  # the others end before a report is drawn
    process = subprocess.Popen(
        [sys.executable, *program, *flags, *slow, "--save_dir", "cut"], stderr=subprocess.PIPE, text=True,
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
