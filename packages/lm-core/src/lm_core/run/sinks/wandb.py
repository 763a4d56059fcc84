"""Weights & Biases: records, checkpoints and the tokenizer of a run; the texts that a model has written.

With WANDB_MODE=offline everything stays in `folder`/wandb, for a later `wandb sync`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_core.disk.files import write_whole
from lm_core.disk.untrusted import check_inside, open_inside
from lm_core.errors import UserError
from lm_core.run.sinks.sink import flat_metrics

_LONGEST_ID = 200


class WandbSink:
    """A `Sink` that logs records under their `flat_metrics` names, against `step`, and files as artifacts.

    The id of the W&B run is kept in `folder`/wandb_id.txt, so a resumed run continues the same one. Records are not
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
            known = _known(note, folder)
            check_inside(folder / "wandb", folder)
            self.run = wandb.init(
                dir=folder,
                project=project,
                entity=entity,
                name=name or folder.resolve().name,
                config=dict(config),
                id=known or None,
                resume="allow",
                reinit="create_new",  # several runs may be trained together in this process
                settings=wandb.Settings(console="off"),  # the records are logged as such
            )
            write_whole(note, f"{self.run.id}\n".encode())
            self.run.define_metric("step")
            self.run.define_metric("*", step_metric="step")
            if tokenizer and not known:
                self._log_files("tokenizer", _own_files(tokenizer), ["latest"])
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

    def _log_files(
        self, kind: str, paths: list[Path], aliases: list[str], metadata: dict[str, Any] | None = None
    ) -> None:
        artifact = self.artifact(f"{kind}-{self.run.id}", type=kind, metadata=metadata)
        for path in paths:
            artifact.add_file(str(path))
        self.run.log_artifact(artifact, aliases=aliases)


class WandbTexts:
    """Texts that a model has written, as a W&B run of its own (job type "inference") with one artifact.

    Args:
        folder: gets W&B's own folder `wandb`.
        project: the W&B project.
        config: how the texts are written.
        entity: user or team; the account's own when not given.

    Raises:
        UserError: when `wandb` is not installed or does not start.
    """

    def __init__(self, folder: Path, project: str, config: Mapping[str, Any], entity: str | None = None):
        try:
            import wandb
        except ImportError:
            raise UserError("wandb is not installed: pip install wandb") from None
        self.artifact = wandb.Artifact
        try:
            check_inside(folder / "wandb", folder)
            self.run = wandb.init(
                dir=folder,
                project=project,
                entity=entity,
                job_type="inference",
                config=dict(config),
                settings=wandb.Settings(console="off"),
            )
        except (wandb.Error, OSError) as error:
            raise UserError(f"wandb does not start: {error}; WANDB_MODE=offline keeps the run on this disk") from None

    def close(self, records: Sequence[Mapping[str, Any]], failed: bool = False) -> None:
        """Log the records as outputs.jsonl, of which the numbers are in the run's summary too, and end the W&B run."""
        artifact = self.artifact(f"outputs-{self.run.id}", type="outputs", metadata={"texts": len(records)})
        with artifact.new_file("outputs.jsonl", mode="w", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=True) + "\n" for record in records)
        for record in records:
            self.run.log({key: value for key, value in record.items() if key.startswith("metrics.")})
        self.run.log_artifact(artifact, aliases=["latest"])
        self.run.finish(exit_code=int(failed))


def _known(note: Path, folder: Path) -> str:
    """The id of the W&B run that this run began; "" for none."""
    try:
        with open_inside(note, folder) as file:
            return file.read(_LONGEST_ID).decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _own_files(folder: Path) -> list[Path]:
    """The files of a folder; what is linked from elsewhere is not sent away."""
    own = folder.resolve()
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.resolve().is_relative_to(own)]
