"""Row: malicious files in a run folder and as token files: no foreign code, nothing written outside, an end in time."""

import os
import shutil
from pathlib import Path

from lm_bench.faults import forgeries, token_forgeries
from lm_bench.faults.bench import Bench
from lm_bench.faults.forgeries import Place
from lm_bench.faults.outcome import Outcome
from lm_bench.faults.row import Row
from lm_bench.faults.trial import SAVE_EVERY, Trial
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder

SPARE_MEMORY = 1 << 30
"""Bytes that a child may take beyond what it has: address space, of which threads reserve more than they use."""
PATIENCE = 120.0


def malicious(bench: Bench, row: Row) -> None:
    """A run resumes as if the file were not there, or refuses to in one line; without the file it resumes."""
    assert bench.whole.step == bench.steps
    checkpoints = Checkpoints(RunFolder(bench.folder / "whole").checkpoints)
    stems = {checkpoints.read(path).step: path.stem for path in checkpoints.folder.glob("*.metadata")}
    refused = 0
    for i in range(bench.count(200, len(forgeries.KINDS))):
        kind = forgeries.KINDS[i % len(forgeries.KINDS)]
        label = f"malice-{i}"
        what = f"--only malice --seed {bench.seed}, trial {i}: {kind.__name__}"
        trial = bench.begun(f"{label}/run")
        newest = Outcome.of(Path(trial.folder)).step
        place = _place(trial, stems[newest], stems[newest + SAVE_EVERY])
        put = kind(place, bench.draw("malice", i))
        what += f" at {', '.join(str(path.relative_to(trial.folder)) for path in put)}"
        found, is_refused = len(row.violations), _go_on(bench, row, trial, place, what)
        for path in put:
            if is_refused or path.is_symlink() or not path.is_file():  # else the run has put its own file there
                _take_away(path)
        refused += is_refused
        log_is_theirs = RunFolder(Path(trial.folder)).metrics in put
        bench.resume(row, trial, what, log=not log_is_theirs)
        if len(row.violations) == found:
            shutil.rmtree(Path(trial.folder).parent, ignore_errors=True)
    row.notes.append(f"{refused} runs refused to start with the file there")
    _token_files(bench, row)


def _place(trial: Trial, newest: str, following: str) -> Place:
    beside = Path(trial.folder).parent
    place = Place(Path(trial.folder), newest, following, beside / "outside", beside / "marker")
    place.outside.write_bytes(b"not yours\n" * 100)
    return place


def _go_on(bench: Bench, row: Row, trial: Trial, place: Place, what: str) -> bool:
    """Resume with the forgery there; whether it was refused."""
    before = place.outside.read_bytes()
    around = _beside(trial)
    audit = Path(f"{trial.folder}.audit")
    hardened = trial.model_copy(update={"audit": str(audit), "memory_limit": SPARE_MEMORY})
    said_before = len(bench.said(trial, None))
    code = bench.finish(bench.start(hardened), PATIENCE)
    row.trials += 1
    said = bench.said(trial, None)[said_before:]
    wrong = []
    if place.marker.exists() or audit.exists():
        wrong.append(f"foreign code ran {audit.read_text() if audit.exists() else ''}")
    if place.outside.read_bytes() != before or _beside(trial) != around:
        wrong.append("something outside was written")
    if code not in (0, 2) or "Traceback" in said:
        wrong.append(f"exit code {code}: {said[-400:]}")
    if wrong:
        row.violations.append(f"{what}: {'; '.join(wrong)}")
    return code == 2


def _beside(trial: Trial) -> set[str]:
    """Names beside the run folder, but for what the campaign itself writes there."""
    folder = Path(trial.folder)
    return {path.name for path in folder.parent.iterdir() if not path.name.startswith(f"{folder.name}.")}


def _token_files(bench: Bench, row: Row) -> None:
    for i in range(bench.count(200, len(token_forgeries.KINDS))):
        kind = token_forgeries.KINDS[i % len(token_forgeries.KINDS)]
        trial = bench.trial(f"tokens-{i}", memory_limit=SPARE_MEMORY, audit=str(bench.folder / f"tokens-{i}.audit"))
        folder = Path(trial.folder)
        folder.mkdir()
        marker = folder / "marker"
        kind(folder, bench.draw("tokens", i), marker)
        code = bench.finish(bench.start(trial, "tokens"), PATIENCE)
        row.trials += 1
        if code != 2 or marker.exists() or Path(trial.audit).exists() or "Traceback" in bench.said(trial):
            what = f"--only malice --seed {bench.seed}, token file {i}: {kind.__name__}"
            row.violations.append(f"{what}: exit code {code}: {bench.said(trial)[-400:]}")
        else:
            bench.remove(trial)


def _take_away(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):  # a link to nothing is there, too
        path.unlink()
