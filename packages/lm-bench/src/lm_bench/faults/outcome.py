"""The end of a run, and how two of them differ: weights, optimizer state, data position, records, to the bit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.log import TIMING_FIELDS, read_records

_OF_THE_COURSE = {"parent"}
"""Metadata that may differ: a run that was interrupted saved at other steps. The digest of its records, `log`, holds no
times, so it is that of the uninterrupted run."""


@dataclass(frozen=True)
class Outcome:
    """A run's newest checkpoint and its log."""

    checkpoint: Checkpoint | None
    complaints: list[str]
    """Messages about checkpoints that had to be skipped."""
    records: list[dict[str, Any]]
    """Without the fields that measure time."""

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read a run folder; what is damaged is skipped."""
        run, complaints = RunFolder(folder), list[str]()
        checkpoint = Checkpoints(run.checkpoints).newest(complaints.append)
        records = read_records(run.metrics) if run.metrics.is_file() else []
        return cls(checkpoint, complaints, [_untimed(record) for record in records])

    @property
    def step(self) -> int:
        """Steps taken, 0 without a checkpoint."""
        return self.checkpoint.step if self.checkpoint else 0

    @property
    def logged(self) -> int:
        """The last step that has a record, 0 without any."""
        return max((record["step"] for record in self.records), default=0)


def differences(ours: Outcome, theirs: Outcome, *, log: bool = True) -> list[str]:
    """In what two runs differ, the log first; nothing when they are the same to the bit."""
    a, b = ours.checkpoint, theirs.checkpoint
    if a is None or b is None:
        return ["no checkpoint"]
    found = [f"complaint: {text}" for text in ours.complaints]
    if log and ours.records != theirs.records:
        pairs = zip(ours.records, theirs.records, strict=False)
        steps = [record["step"] for record, other in pairs if record != other]
        found.append(f"records: {len(ours.records)} and {len(theirs.records)}, differing from step {steps[:1]} on")
    found += _of_arrays("weights", a.weights, b.weights)
    found += _of_arrays("optimizer state", a.optimizer_state, b.optimizer_state)
    left_out = _OF_THE_COURSE if log else _OF_THE_COURSE | {"log"}
    ours_known, theirs_known = _untimed_metadata(a, left_out), _untimed_metadata(b, left_out)
    keys = sorted(key for key in ours_known.keys() | theirs_known if ours_known.get(key) != theirs_known.get(key))
    found += [f"metadata: {key} is {ours_known.get(key)}, not {theirs_known.get(key)}" for key in keys]
    return found


def _of_arrays(what: str, ours: dict[str, NDArray[Any]], theirs: dict[str, NDArray[Any]]) -> list[str]:
    if ours.keys() != theirs.keys():
        return [f"{what}: other names"]
    pairs = ((name, ours[name], theirs[name]) for name in ours)
    return [
        f"{what}: {name}" for name, a, b in pairs if (a.shape, a.dtype, a.tobytes()) != (b.shape, b.dtype, b.tobytes())
    ]


def _untimed_metadata(checkpoint: Checkpoint, left_out: set[str]) -> dict[str, Any]:
    metadata = {key: value for key, value in checkpoint.metadata.items() if key not in left_out}
    about = {key: value for key, value in metadata.get("about", {}).items() if key != "command"}  # it names the folder
    return metadata | {"state": _untimed(metadata["state"]), "about": about}


def _untimed(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in TIMING_FIELDS}
