"""Claims of the checkpoints of a run about its other files: its config, its records, its tokenizer.

    checkpoints' metadata --> config.toml, key by key
                       --> metrics.jsonl: the digest of the records before the checkpoint, and the losses that it knows
                       --> tokenizer/: its fingerprint

Checkpoints from before configs and digests were recorded claim less, and the table then says that less was checked.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_core.run.checkpoint import Checkpoint
from lm_core.run.folder import upgraded
from lm_core.run.log import RESUME, Digest
from lm_core.run.resume import differences, flat, unsaved
from lm_tokenizer.adapters import load_tokenizer
from lm_tokenizer.errors import TokenizerError

Records = Sequence[Mapping[str, Any]]
_MOST = 5


class Claims:
    """Claims of the readable checkpoints of a run about its log, compared with its lines as they are read."""

    def __init__(self, checkpoints: Iterable[Checkpoint]) -> None:
        self.checkpoints = list(checkpoints)
        self.resumes: list[Mapping[str, Any]] = []
        """Records of kind `resume`."""
        self._digest = Digest()
        self._digests = dict.fromkeys(self._claimed(), "")
        self._losses: dict[int, Any] = {}

    def _claimed(self) -> Iterator[int]:
        for checkpoint in self.checkpoints:
            if count := _log_of(checkpoint).get("records"):
                yield count

    def add(self, record: Mapping[str, Any]) -> None:
        """Take the next record of the log."""
        self._digest.add(record)
        known = self._digest.metadata
        if known["records"] in self._digests:
            self._digests[known["records"]] = known["sha1"]
        if record.get("kind") == "eval":
            self._losses[record["step"]] = record.get("loss_nats")
        elif record.get("kind") == RESUME:
            self.resumes.append(record)

    def problems(self) -> Iterator[str]:
        """Contradictions between the log and the checkpoints, once all records have been added."""
        for checkpoint in self.checkpoints:
            yield from self._loss_problems(checkpoint)
            log = _log_of(checkpoint)
            count, sha1 = log.get("records"), log.get("sha1")
            if count and self._digests[count] != sha1:
                step = checkpoint.step
                yield f"its first {count} records are not those that the checkpoint of step {step} was saved with"

    @property
    def checked(self) -> str:
        """The properties of the log that were checked."""
        return "lines, order, losses" if self._digests else "lines, order, validation losses"

    def _loss_problems(self, checkpoint: Checkpoint) -> Iterator[str]:
        state = checkpoint.metadata.get("state")
        if not isinstance(state, dict):
            return
        for which in ("last_val", "best"):
            step, loss = (
                state.get(f"{which}_step"),
                state.get("last_val_loss" if which == "last_val" else "best_val_loss"),
            )
            if step in self._losses and loss is not None and self._losses[step] != loss:
                yield (
                    f"the evaluation of step {step} says {self._losses[step]}, and the checkpoint of step"
                    f" {checkpoint.step} {loss}"
                )


def config_problems(config: Mapping[str, Any], newest: Checkpoint, resumes: Records) -> Iterator[str]:
    """Keys of config.toml, of today's names, that differ from the newest checkpoint's, and from changes since."""
    known = newest.metadata.get("config")
    if not isinstance(known, dict):
        return
    today = upgraded(known, int(newest.metadata.get("format", 1)))
    expected = flat(today) | unsaved(resumes, newest.step)
    wrong = differences({key: value for key, value in expected.items() if value is not None}, flat(config))
    for change in wrong[:_MOST]:
        if change.new is None:
            yield f"{change.key} is missing; the checkpoint of step {newest.step} has {change.old}"
        elif change.old is None:
            yield f"{change.key} is {change.new}; the checkpoint of step {newest.step} does not have it"
        else:
            yield f"{change.key} is {change.new}, and {change.old} in the checkpoint of step {newest.step}"
    if len(wrong) > _MOST:
        yield f"{len(wrong) - _MOST} more keys differ"


def tokenizer_problems(path: Path, newest: Checkpoint) -> tuple[list[str], list[str]]:
    """Damage to the tokenizer that a run needs, and notes on what could not be checked; `path` is its folder."""
    known = newest.metadata["tokenizer"]
    if not path.is_dir() or not any(path.iterdir()):
        return ["missing, and a model of this run cannot be used without it"], []
    try:
        tokenizer = load_tokenizer(f"{known.get('kind')}:{path}")
    except TokenizerError as error:
        return ([], [f"not checked: {error}"]) if "is not installed" in str(error) else ([str(error)], [])
    if tokenizer.fingerprint != known.get("fingerprint"):
        return [f"not the one that the checkpoint of step {newest.step} was trained with"], []
    return [], []


def needs_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether a run has a tokenizer/; older runs on characters have their vocabulary in the checkpoint."""
    known = checkpoint.metadata.get("tokenizer")
    return isinstance(known, dict) and "fingerprint" in known


def _log_of(checkpoint: Checkpoint) -> dict[str, Any]:
    log = checkpoint.metadata.get("log")
    return log if isinstance(log, dict) and isinstance(log.get("records"), int) else {}
