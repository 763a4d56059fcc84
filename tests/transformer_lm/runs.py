"""Small runs of transformer_lm, and what they left."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.log import TIMING_FIELDS

PROGRAM = Path(__file__).resolve().parents[2] / "apps" / "transformer_lm"
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
