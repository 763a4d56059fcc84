"""Row: a run of two ranks of which one is killed; the other one stops, and the run resumes.

    two children, one folder  --SIGKILL on one, at a random instant from where they have joined-->
    the other                 ends by itself, with one line
    two children again        to the end, which is that of two ranks undisturbed, to the bit

On torch the ranks hold shares (FSDP2), so a save is an exchange too; MLX has data parallel alone.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from lm_bench.faults.bench import PATIENCE, Bench, Started
from lm_bench.faults.kills import wait_for_a_save
from lm_bench.faults.outcome import Outcome
from lm_bench.faults.row import Row
from lm_bench.faults.trial import Trial

RANKS = 2
STOPS_WITHIN = 30.0
"""Seconds that the others may take to end."""
_GONE = "another rank has ended"
_PORTS = range(10_000, 30_000)
"""Below those that systems give out to whoever asks for any."""


def killed_rank(bench: Bench, row: Row) -> None:
    """SIGKILL on one of two ranks; every fourth one lands within a save."""
    parallel = "fsdp" if bench.backend == "torch" else "ddp"
    undisturbed = bench.trial("ranks-whole", keep=1000, careless="", parallel=parallel)
    ranks = _start(bench, undisturbed)
    _wait_until_joined(bench, undisturbed)
    begun = time.monotonic()
    codes = [bench.finish(rank) for rank in ranks]
    duration = time.monotonic() - begun
    assert codes == [0] * RANKS, f"the uninterrupted run failed: {bench.said(undisturbed)}"
    whole, inside, times = Outcome.of(Path(undisturbed.folder)), 0, []
    for i in range(bench.count(50, 1)):
        draw = bench.draw("ranks", i)
        what = f"--only ranks --seed {bench.seed}, trial {i}"
        trial = bench.trial(f"ranks-{i}", parallel=parallel, stall=0.0 if i % 4 else 0.02)
        ranks = _start(bench, trial)
        _wait_until_joined(bench, trial)
        if trial.stall:
            inside += wait_for_a_save(trial, draw)
        else:
            time.sleep(draw.uniform(0, duration))
        victim = int(draw.integers(RANKS))
        os.kill(ranks[victim].pid, signal.SIGKILL)
        begun = time.monotonic()
        code = bench.finish(ranks[1 - victim], STOPS_WITHIN)
        took, was_killed = time.monotonic() - begun, bench.finish(ranks[victim]) == -signal.SIGKILL
        row.trials += 1
        found = bench.check_kept(row, trial, what)
        if was_killed and not (code == 0 and found.step == trial.steps):
            times.append(took)
            if code != 1 or bench.said(trial).count(_GONE) != 1:
                row.violations.append(f"{what}: the other rank's exit code is {code}: {bench.said(trial)[-300:]}")
        again = bench.trial(f"ranks-{i}", parallel=parallel, announced="")
        codes = [bench.finish(rank) for rank in _start(bench, again)]
        bench.compare(row, trial, what, next((code for code in codes if code), 0), whole)
    row.notes.append(
        f"{len(times)} kills found both ranks training, {inside} came during a save; the other rank ended within"
        f" {max(times, default=0):.1f} s"
    )


def _start(bench: Bench, trial: Trial) -> list[Started]:
    """The ranks of a run, as a launcher starts them."""
    ports, hosts = _free_ports(RANKS), Path(f"{trial.folder}.hosts")
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    shared = {"WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0]}
    started = []
    for rank in range(RANKS):
        own = {"RANK": rank, "LOCAL_RANK": rank, **shared}
        if bench.backend == "mlx":
            own = {"MLX_RANK": rank, "MLX_HOSTFILE": hosts}
        environment = {name: str(value) for name, value in own.items()}
        started.append(bench.start(trial.model_copy(update={"environment": environment})))
    return started


def _wait_until_joined(bench: Bench, trial: Trial) -> None:
    """Until the first rank has printed something, or nobody will: before, only a launcher can tell who is missing."""
    end = time.monotonic() + PATIENCE
    while not bench.said(trial) and time.monotonic() < end:
        time.sleep(0.002)


def _free_ports(count: int) -> Sequence[int]:
    found: list[int] = []
    for port in _PORTS[os.getpid() * 7 % len(_PORTS) :]:
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found
