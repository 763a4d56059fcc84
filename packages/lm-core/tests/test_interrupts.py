"""The first signal is noted, the second ends the process at once, and afterwards signals mean what they did before."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lm_core.run.interrupts import Interrupts

PATIENCE = 120.0
"""Seconds until a process counts as hung: no bound on how fast it is."""
PROGRAM = """
import hashlib, sys, time
from lm_core.run.interrupts import Interrupts

with Interrupts(**({"echo": 3600} if "echo" in sys.argv else {})) as interrupts:
    print("ready", flush=True)
    if "busy" in sys.argv:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # many minutes, in which no handler runs
    while not interrupts.requested:
        time.sleep(0.01)
    print("noted", flush=True)
    if "finish" in sys.argv:
        sys.exit(0)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _hang_ups_are_heard() -> Iterator[None]:
    """A suite that `nohup` started ignores SIGHUP, and so would the programs that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def start(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def answer(process: subprocess.Popen[str], start: str = "finishing this step") -> str:
    """Return stderr up to a line that starts so: the watching thread has heard the signal by then."""
    said = ""
    assert process.stderr is not None
    for line in process.stderr:
        said += line
        if line.startswith(start):
            return said
    raise AssertionError(f"{start!r} did not come, but {said!r}")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_ends_the_process_at_once(
    first: signal.Signals, second: signal.Signals
) -> None:
    with start() as process:
        process.send_signal(first)
        assert process.stdout is not None
        assert process.stdout.readline() == "noted\n"
        said = answer(process)
        time.sleep(0.3)  # longer than an echo
        process.send_signal(second)
        said += process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 128 + second
    assert said.split("\n")[1::2] == [
        "finishing this step, then saving; press Ctrl-C again to quit now",
        "quit; the last checkpoint is intact",
    ]
    assert "Traceback" not in said


def test_a_process_that_is_busy_outside_of_python_answers_and_ends_too() -> None:
    with start("busy") as process:
        process.send_signal(signal.SIGINT)
        answer(process)
        time.sleep(0.3)  # longer than an echo
        process.send_signal(signal.SIGINT)
        process.wait(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGINT


def test_a_signal_that_a_launcher_passes_on_once_more_counts_once() -> None:
    assert Interrupts()._echo > 0
    with start("echo") as process:
        process.send_signal(signal.SIGTERM)
        answer(process)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 128 + signal.SIGINT


def test_a_program_that_is_asked_once_finishes_in_its_own_way() -> None:
    with start("finish") as process:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert said == "noted\n"


def test_a_hang_up_asks_and_never_ends() -> None:
    with start() as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        assert process.stdout.readline() == "noted\n"
        answer(process, "terminal hung up")
        time.sleep(0.3)  # longer than an echo
        process.send_signal(signal.SIGHUP)
        answer(process, "terminal hung up")
        process.send_signal(signal.SIGTERM)  # the first that asks
        answer(process)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 128 + signal.SIGTERM


def test_a_hang_up_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupts.requested
    finally:
        signal.signal(signal.SIGHUP, before)


STUCK = """
import os, pathlib, sys, time
from lm_core.run.interrupts import Interrupts
from lm_core.terminal import put

def fill(number):
    os.set_blocking(number, False)
    try:
        while os.write(number, b"x" * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(number, True)

with Interrupts() as interrupts:
    fill(1)
    pathlib.Path("ready").touch()
    if "write" in sys.argv:
        put("waits for a reader")
    while not interrupts.requested:
        time.sleep(0.01)
    pathlib.Path("saved").touch()
    time.sleep(0 if "write" in sys.argv else 60)
"""


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a program whose stdout and stderr are one pipe, full, that nobody reads."""
    read_end, write_end = os.pipe()

    def start(what: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", STUCK, what], cwd=tmp_path, stdout=write_end, stderr=subprocess.STDOUT
        )
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
            time.sleep(0.01)
        return process

    yield start
    os.close(read_end)
    os.close(write_end)


def test_a_run_that_waits_for_a_reader_comes_to_its_save(
    stuck: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    with stuck("write") as process:
        time.sleep(0.1)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=PATIENCE) == 0
    assert (tmp_path / "saved").exists()


def test_a_second_signal_ends_a_process_whose_output_nobody_reads(
    stuck: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    with stuck("sleep") as process:
        process.send_signal(signal.SIGTERM)
        while not (tmp_path / "saved").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)  # which is not an echo, however soon it comes
        assert process.wait(timeout=PATIENCE) == 128 + signal.SIGINT


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_the_handlers_of_before_come_back_even_after_an_error() -> None:
    before = handlers()
    with contextlib.suppress(RuntimeError), Interrupts():
        assert all(now != then for now, then in zip(handlers(), before, strict=True))
        raise RuntimeError
    assert handlers() == before


def test_nothing_is_requested_before_a_signal_comes() -> None:
    with Interrupts() as interrupts:
        assert not interrupts.requested
