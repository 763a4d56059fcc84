"""The first signal is noted, the second ends the process at once, and afterwards signals mean what they did before."""

import contextlib
import signal
import subprocess
import sys
import time

import pytest

from lm_core.run.interrupts import Interrupts

PROGRAM = """
import hashlib, sys, time
from lm_core.run.interrupts import Interrupts

with Interrupts() as interrupts:
    print("ready", flush=True)
    if "busy" in sys.argv:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)  # minutes, in which no handler runs
    while not interrupts.requested:
        time.sleep(0.01)
    print("noted", flush=True)
    if "finish" in sys.argv:
        sys.exit(0)
    time.sleep(60)
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_ends_the_process_at_once(
    first: signal.Signals, second: signal.Signals
) -> None:
    with start() as process:
        process.send_signal(first)
        assert process.stdout is not None
        assert process.stdout.readline() == "noted\n"
        time.sleep(0.3)  # longer than an echo
        sent = time.monotonic()
        process.send_signal(second)
        _, said = process.communicate(timeout=10)
        assert time.monotonic() - sent < 2
    assert process.returncode == 128 + second
    assert said.split("\n")[1::2] == [
        "stopping after what is in hand; once more to stop at once",
        "stopped at once; the last saved checkpoint is intact",
    ]
    assert "Traceback" not in said


def test_a_process_that_is_busy_outside_of_python_answers_and_ends_too() -> None:
    with start("busy") as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert [process.stderr.readline() for _ in range(2)][1].startswith("stopping after what is in hand")
        time.sleep(0.3)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)
        assert time.monotonic() - sent < 2
    assert process.returncode == 128 + signal.SIGINT


def test_a_signal_that_a_launcher_passes_on_once_more_counts_once() -> None:
    with start() as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 128 + signal.SIGTERM


def test_a_program_that_is_asked_once_finishes_in_its_own_way() -> None:
    with start("finish") as process:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert said == "noted\n"


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
