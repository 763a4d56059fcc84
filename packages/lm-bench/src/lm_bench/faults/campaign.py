"""The rows, in the order of the table, and their run over one backend after the other."""

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lm_bench.faults.bench import Bench
from lm_bench.faults.damage import damaged
from lm_bench.faults.every_step import resumed_everywhere
from lm_bench.faults.kills import asked_to_stop, asked_twice, killed_in_a_row, killed_once
from lm_bench.faults.lost_rank import killed_rank
from lm_bench.faults.malice import malicious
from lm_bench.faults.places import surroundings
from lm_bench.faults.poison import poisoned
from lm_bench.faults.power import power_cuts
from lm_bench.faults.programs import command_lines
from lm_bench.faults.row import Row
from lm_bench.faults.traced_saves import every_operation
from lm_bench.flags import BackendName

ROWS: Mapping[str, tuple[Callable[[Bench, Row], None], str]] = {
    "save": (every_operation, "each operation of a save, killed or failed there"),
    "power": (power_cuts, "power cut after each file operation"),
    "kill": (killed_once, "SIGKILL at random instants"),
    "chain": (killed_in_a_row, "five SIGKILLs in a row"),
    "ranks": (killed_rank, "SIGKILL on one of two ranks"),
    "commands": (command_lines, "each command line, stopped, killed, resumed"),
    "interrupt": (asked_to_stop, "SIGINT or SIGTERM: saves, exits 0"),
    "second": (asked_twice, "a second SIGINT or SIGTERM"),
    "steps": (resumed_everywhere, "resumed at every step"),
    "damage": (damaged, "flipped bits, cuts, swapped files"),
    "poison": (poisoned, "NaN and infinity"),
    "places": (surroundings, "read-only, size limit, two processes, wrong clock"),
    "malice": (malicious, "malicious files"),
}
IN_THIS_PROCESS = ("steps", "damage", "poison", "malice")
"""Rows of which no process is the subject: a kill, a signal, a limit or a right of one."""
SHORT = 0.005
"""The share of the trials that `--short` makes."""


def run_campaign(
    backends: Sequence[BackendName],
    only: Sequence[str],
    seed: int,
    share: float,
    keep: bool,
    say: Callable[[str], None],
    *,
    careless: str = "",
) -> list[Row]:
    """Every row on every backend; folders are removed, with `keep` but for those of trials that failed.

    With `careless` (`Trial.careless`) the runs themselves are wrong, which is to be noticed.
    """
    root = Path(tempfile.mkdtemp(prefix="lm-faults-"))
    rows = []
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # by way of what follows
    try:
        for backend in backends:
            with Bench(backend, root / backend, seed, share) as bench:
                bench.careless = careless
                for name in only or ROWS:
                    say(f"{name} on {backend} ...")
                    rows.append(_run_row(bench, name))
    finally:
        signal.signal(signal.SIGTERM, before)
        if keep and not all(row.sound for row in rows):
            say(f"the folders of what failed are in {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return rows


def _run_row(bench: Bench, name: str) -> Row:
    row = Row(name, bench.backend)
    begun = time.monotonic()
    bench.here = name in IN_THIS_PROCESS
    try:
        ROWS[name][0](bench, row)
    except Exception as error:
        row.violations.append(f"--only {name} --seed {bench.seed}: it broke off: {type(error).__name__}: {error}")
    row.seconds = time.monotonic() - begun
    return row
