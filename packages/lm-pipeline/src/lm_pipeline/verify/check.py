"""Check that the files of a run are whole: `lm-bench verify RUN`.

    run folder -> every checkpoint, how they follow from one another, and what they claim of config, log and tokenizer
               -> a table; nothing is ever written

Files are read as the loader reads them (`lm_core.run.checkpoint`): no pickle, no pipe, nothing larger than the memory.
A run should not be training meanwhile: an unfinished save looks like the leftover of a killed one.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lm_core.disk.files import checkpoint_files
from lm_core.disk.untrusted import is_scratch
from lm_core.errors import UnreadableError, UserError
from lm_core.run.checkpoint import Checkpoint, Checkpoints, DamagedError
from lm_core.run.folder import SUBFOLDERS, WRITTEN, RunFolder
from lm_core.run.log import LONGEST_LINE
from lm_core.run.resume import flat
from lm_core.terminal import aligned, show
from lm_pipeline.verify.claims import Claims, config_problems, needs_tokenizer, tokenizer_problems

_KNOWN = {"config.toml", "lock", *WRITTEN, *SUBFOLDERS}
_INTERVALS = ("log_every", "steps_per_report")
"""Names that configs give to the interval of the training records."""
_LASTING = ("model", "tokenizer", "vocabulary")
"""Metadata that a checkpoint shares with its parent; a resume may change the rest, such as the batch size."""


@dataclass(frozen=True)
class CheckedFile:
    """A file, or a checkpoint's two."""

    name: str
    step: int | None = None
    """Of a checkpoint that can be read."""
    damage: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Things that are not damage: a file that is not of a run, or a missing one that is not needed."""
    checked: str = ""
    """The properties that were checked."""


@dataclass
class CheckedRun:
    """A run folder."""

    folder: Path
    files: list[CheckedFile] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not any(file.damage for file in self.files)


def find_runs(paths: Sequence[str]) -> list[Path]:
    """The run folders that are meant: each path itself, or the runs in it.

    Raises:
        UserError: for a path that is no folder, or holds no run.
    """
    found = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"there is no folder {path}")
        inner = sorted(folder for folder in path.iterdir() if folder.is_dir())
        runs = [path] if RunFolder(path).holds_run() else [one for one in inner if RunFolder(one).holds_run()]
        if not runs:
            raise UserError(f"{path} holds no run: neither it nor a folder in it has a config.toml or a checkpoint")
        found += runs
    return found


def check_run(folder: Path) -> CheckedRun:
    """Everything that a run folder holds."""
    try:
        return _check_run(RunFolder(folder))
    except OSError as error:
        damage = f"{error.filename or folder} cannot be read: {error.strerror}"
        return CheckedRun(folder, [CheckedFile(".", damage=(damage,))])


def _check_run(run: RunFolder) -> CheckedRun:
    checkpoints, good = _check_checkpoints(run.checkpoints)
    newest = max(good, key=lambda checkpoint: checkpoint.step, default=None)
    config = _read_config(run)
    log_every = max((n for key in _INTERVALS for n in _values_of(key, config)), default=0)
    claims = Claims(good)
    log = _check_log(run.metrics, newest, log_every, claims)
    checked = CheckedRun(run.path, [_check_config(run, config, newest, claims), log])
    checked.files += _check_tokenizer(run, newest)
    checked.files += checkpoints
    checked.files += _strays(run)
    return checked


def verify_table(runs: Sequence[CheckedRun]) -> str:
    """A line for each file: what was checked of it, and what is wrong with it."""
    rows: list[tuple[str, ...]] = [("run", "file", "step", "checked", "")]
    for run in runs:
        for file in run.files:
            said = [*(f"DAMAGED: {text}" for text in file.damage), *(f"note: {text}" for text in file.notes)]
            step = "" if file.step is None else str(file.step)
            rows += [(str(run.folder), file.name, step, file.checked, text) for text in said or ["sound"]]
    return aligned([tuple(map(show, row)) for row in rows])  # names and values are somebody else's


def _read_config(run: RunFolder) -> dict[str, Any]:
    """The config's tables; empty when there are none that can be read."""
    if not run.config.is_file():
        return {}
    try:
        return run.config_tables()
    except UserError:
        return {}


def _check_config(run: RunFolder, config: dict[str, Any], newest: Checkpoint | None, claims: Claims) -> CheckedFile:
    path, known = run.config, newest is not None and isinstance(newest.metadata.get("config"), dict)
    if not path.exists():
        said = ("missing",)
        return CheckedFile(path.name, damage=said) if newest else CheckedFile(path.name, notes=said)
    if not path.is_file():
        return CheckedFile(path.name, damage=("not a file",))
    try:
        run.config_tables()
    except UserError as error:
        return CheckedFile(path.name, damage=(str(error),))
    if not config:
        return CheckedFile(path.name, damage=("empty",))
    damage = tuple(config_problems(config, newest, claims.resumes)) if newest else ()
    checked = f"{len(flat(config))} keys against step {newest.step}" if newest and known else "syntax"
    return CheckedFile(path.name, damage=damage, checked=checked)


def _check_tokenizer(run: RunFolder, newest: Checkpoint | None) -> Iterator[CheckedFile]:
    if newest and needs_tokenizer(newest):
        damage, notes = tokenizer_problems(run.tokenizer, newest)
        yield CheckedFile(run.tokenizer.name, damage=tuple(damage), notes=tuple(notes), checked="fingerprint")


def _values_of(key: str, table: dict[str, Any]) -> Iterator[int]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _values_of(key, value)
        elif name == key and isinstance(value, int):
            yield value


def _check_log(path: Path, newest: Checkpoint | None, log_every: int, claims: Claims) -> CheckedFile:
    """Whole lines whose steps never fall, as far as the newest checkpoint, with the losses that checkpoints know."""
    if not path.exists():
        said = ("missing",)
        return CheckedFile(path.name, damage=said) if newest else CheckedFile(path.name, notes=said)
    if not path.is_file():
        return CheckedFile(path.name, damage=("not a file",))
    damage: list[str] = []
    notes: list[str] = []
    last, last_training, gap = 0, 0, log_every
    for number, line in enumerate(_lines(path), 1):
        record = _record(line)
        if record is None:
            if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                notes.append(f"line {number}, the last, is torn; resuming drops it")
                break
            damage.append(f"line {number} is not a record")
            break
        if not line.endswith(b"\n"):
            notes.append(f"line {number}, the last, has no end; resuming mends it")
        claims.add(record)
        step = record["step"]
        if step < last:
            damage.append(f"line {number} goes back from step {last} to {step}")
        if record.get("kind") == "train":
            gap, last_training = max(gap, step - last_training), step
        last = max(last, step)
    if newest:
        damage += _uncovered(newest, last, last_training, gap)
        damage += claims.problems()
    return CheckedFile(path.name, last, tuple(damage), tuple(notes), claims.checked)


def _uncovered(newest: Checkpoint, last: int, last_training: int, gap: int) -> Iterator[str]:
    """Records that the newest checkpoint's run must have written; how often it logs shows in the log and the config."""
    state = newest.metadata.get("state")
    evaluated = state.get("last_val_step", 0) if isinstance(state, dict) else 0
    if isinstance(evaluated, int) and evaluated > last:
        yield f"the evaluation of step {evaluated} is missing, and a checkpoint knows of it"
    if newest.step - last_training > gap or not last:
        yield f"it ends at step {last_training}, and there is a checkpoint of step {newest.step}"


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            yield line


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return record if isinstance(step, int) and not isinstance(step, bool) and step >= 0 else None


def _check_checkpoints(folder: Path) -> tuple[list[CheckedFile], list[Checkpoint]]:
    """Each checkpoint by itself, then against its parent."""
    checkpoints = Checkpoints(folder)
    damaged: list[CheckedFile] = []
    readable: dict[str, Checkpoint] = {}
    wrong: dict[str, list[str]] = {}
    for path in checkpoints.files():
        try:
            checkpoint = checkpoints.read(path)
            wrong[path.stem] = list(_content_problems(checkpoint))
        except (DamagedError, UnreadableError) as error:
            damaged.append(CheckedFile(path.stem, damage=(str(error),)))
            continue
        # The arrays have been looked at; of many checkpoints only the metadata stays in memory.
        readable[path.stem] = Checkpoint(path, {}, {}, checkpoint.metadata)
    files = []
    for stem, checkpoint in sorted(readable.items(), key=lambda item: item[1].step):
        problems = wrong[stem] + list(_lineage_problems(checkpoint, readable))
        files.append(CheckedFile(stem, checkpoint.step, tuple(problems), checked="hashes, numbers, parent"))
    if not files and not damaged:
        files.append(CheckedFile("checkpoints", notes=("nothing has been saved",)))
    return files + damaged, list(readable.values())


def _content_problems(checkpoint: Checkpoint) -> Iterator[str]:
    step = checkpoint.metadata.get("step")
    if not isinstance(step, int) or step < 0:
        raise DamagedError(f"{checkpoint.path.name} is malformed (its step is {step!r})")
    state = checkpoint.metadata.get("state")
    if isinstance(state, dict) and state.get("step", step) != step:
        yield f"it is of step {step}, and its state of step {state['step']}"
    loss = checkpoint.metadata.get("val_loss")
    if isinstance(loss, float) and not math.isfinite(loss):
        yield f"its val_loss is {loss}"
    for name, array in (checkpoint.weights | checkpoint.optimizer_state).items():
        if array.dtype.kind == "f" and array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
            yield f"{name} is not finite"


def _lineage_problems(checkpoint: Checkpoint, known: dict[str, Checkpoint]) -> Iterator[str]:
    parent = known.get(str(checkpoint.metadata.get("parent")))
    # None for the first of its run, or where it is not kept any longer; the same where no weight has moved.
    if parent is None or parent.path == checkpoint.path:
        return
    if parent.step >= checkpoint.step:
        yield f"its parent {parent.path.stem[:12]} has more steps: {parent.step}"
    for key in _LASTING:
        if checkpoint.metadata.get(key) != parent.metadata.get(key):
            yield f"its {key} is not that of its parent {parent.path.stem[:12]}"


def _strays(run: RunFolder) -> Iterator[CheckedFile]:
    """Files that do not belong to a run, and those that a killed save has left."""
    for path in sorted(run.path.iterdir()):
        if is_scratch(path.name):
            yield CheckedFile(path.name, notes=("left by a killed save; the next one removes it",))
        elif path.name not in _KNOWN:
            yield CheckedFile(path.name, notes=("not of a run",))
    own = set(checkpoint_files(run.checkpoints))
    for path in sorted(run.checkpoints.iterdir()) if run.checkpoints.is_dir() else ():
        name = f"checkpoints/{path.name}"
        if path not in own:
            yield CheckedFile(name, notes=("not of a run",))
        elif path.suffix == ".new":
            yield CheckedFile(name, notes=("left by a killed save; the next one removes it",))
        elif path.suffix == ".safetensors" and not path.with_suffix(".metadata").exists():
            yield CheckedFile(name, notes=("weights without metadata, left by a killed save",))
