"""Weights & Biases: records, checkpoints and the tokenizer of a run.

With WANDB_MODE=offline everything stays in `folder`/wandb, for a later `wandb sync`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_core.errors import UserError
from lm_core.run.files import write_whole
from lm_core.run.sinks.sink import flat_metrics


class WandbSink:
    """A `Sink` that logs records under their `flat_metrics` names, against `step`, and files as artifacts.

    The id of the W&B run is kept in `folder`/wandb_id.txt, so a resumed run goes on in the same one. Records are not
    given W&B's own step, which may not go back. Limit: what was logged after the checkpoint that a run is resumed from,
    W&B then has twice.

    Args:
        folder: the run folder.
        project: the W&B project.
        config: the resolved config of the run.
        entity: user or team; the account's own when not given.
        name: what W&B shows; the folder's name when not given.
        tokenizer: a folder that is logged as an artifact, once.

    Raises:
        UserError: when `wandb` is not installed or does not start.
    """

    def __init__(
        self,
        folder: Path,
        project: str,
        config: Mapping[str, Any],
        entity: str | None = None,
        name: str | None = None,
        tokenizer: Path | None = None,
    ):
        try:
            import wandb
        except ImportError:
            raise UserError("wandb is not installed: pip install wandb") from None
        note = folder / "wandb_id.txt"
        self.artifact = wandb.Artifact
        try:
            known = note.read_text().strip() if note.exists() else ""
            self.run = wandb.init(
                dir=folder,
                project=project,
                entity=entity,
                name=name or folder.resolve().name,
                config=dict(config),
                id=known or None,
                resume="allow",
                settings=wandb.Settings(console="off"),  # the records are logged as such
            )
            write_whole(note, f"{self.run.id}\n".encode())
            self.run.define_metric("step")
            self.run.define_metric("*", step_metric="step")
            if tokenizer and not known:
                self._log_files("tokenizer", sorted(path for path in tokenizer.iterdir() if path.is_file()), ["latest"])
        except (wandb.Error, OSError) as error:
            raise UserError(f"wandb does not start: {error}; WANDB_MODE=offline keeps the run on this disk") from None

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log the numbers of a record."""
        self.run.log({"step": step, **flat_metrics(kind, values)})

    def saved(self, metadata: Path, step: int, best: bool) -> None:
        """Log the two files of a checkpoint as an artifact, "latest" and, if it is, "best"."""
        aliases = ["latest", "best"] if best else ["latest"]
        self._log_files("checkpoint", [metadata, metadata.with_suffix(".safetensors")], aliases, {"step": step})

    def close(self, failed: bool) -> None:
        """End the W&B run; waits until it is uploaded."""
        self.run.finish(exit_code=int(failed))

    def _log_files(self, kind: str, paths: list[Path], aliases: list[str], facts: dict[str, Any] | None = None) -> None:
        artifact = self.artifact(f"{kind}-{self.run.id}", type=kind, metadata=facts)
        for path in paths:
            artifact.add_file(str(path))
        self.run.log_artifact(artifact, aliases=aliases)
