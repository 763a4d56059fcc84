"""Interface of a sink of records, and the flat form of a record that sinks share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

_NAMES = {"loss_nats": "loss", "grad_norm": "grad_l2_norm"}
_OF_THE_RUN = frozenset({"seconds"})
"""Fields of an evaluation that say nothing of the validation text."""


class Sink(Protocol):
    """Takes the records of a run. An error that it raises is reported once and stops nothing."""

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Take one record."""

    def saved(self, metadata: Path, step: int, best: bool) -> None:
        """A checkpoint is proven on disk, the `best` so far or not; its weights lie beside its metadata file.

        Called on the thread that saves, so that nobody waits; the files stay at least until it returns.
        """

    def close(self, failed: bool) -> None:
        """The run has ended, `failed` if by an error."""


def flat_metrics(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record under names that need no nesting.

    loss_nats becomes "metrics.loss", grad_norm "metrics.grad_l2_norm", an evaluation's loss_nats "metrics.val_loss",
    {"weight_norm": {"blocks.0": x}} "metrics.weight_norm.blocks.0". Other values are left out.
    """
    flat: dict[str, float] = {}
    for key, value in values.items():
        name = _NAMES.get(key, key)
        name = f"metrics.val_{name}" if kind == "eval" and key not in _OF_THE_RUN else f"metrics.{name}"
        inner = {f"{name}.{part}": x for part, x in value.items()} if isinstance(value, Mapping) else {name: value}
        flat |= {path: x for path, x in inner.items() if isinstance(x, int | float)}
    return flat
