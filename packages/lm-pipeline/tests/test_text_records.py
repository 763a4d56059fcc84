"""Where the records of written texts go."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lm_core.errors import UserError
from lm_pipeline.generation import records as text_records
from lm_pipeline.generation.config import InferConfig
from lm_pipeline.generation.records import TextRecords, check_logging

RECORDS = [{"text.output": "é", "metrics.tokens": 1}, {"text.output": "b", "metrics.tokens": 2}]


class Told:
    """Stands for W&B."""

    def __init__(self, *given: Any) -> None:
        self.given = given
        self.closed: list[tuple[list[Mapping[str, Any]], bool]] = []
        self.error: Exception | None = None

    def close(self, records: Sequence[Mapping[str, Any]], failed: bool) -> None:
        self.closed.append((list(records), failed))
        if self.error:
            raise self.error


@pytest.fixture
def config(tmp_path: Path) -> InferConfig:
    logging = {"file": str(tmp_path / "logs" / "texts.jsonl"), "backend": ["wandb"]}
    return InferConfig.parse({"logging": logging, "wandb": {"project": "p"}, "prompt": ["secret"]})


def test_records_go_to_the_file_and_to_one_artifact(
    config: InferConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_records, "WandbTexts", Told)
    with TextRecords(config, "run/abc") as records:
        for record in RECORDS:
            records.write(record)
    assert [json.loads(line) for line in (tmp_path / "logs/texts.jsonl").read_text().splitlines()] == RECORDS
    told = records.wandb
    assert isinstance(told, Told)
    assert told.closed == [(RECORDS, False)]
    folder, project, about, entity = told.given
    assert (folder, project, entity) == (tmp_path / "logs", "p", None)
    assert about["model"] == "run/abc"


def test_what_wandb_raises_at_the_end_is_reported_and_ends_nothing(
    config: InferConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(text_records, "WandbTexts", Told)
    with TextRecords(config, "m") as records:
        records.write(RECORDS[0])
        assert isinstance(records.wandb, Told)
        records.wandb.error = RuntimeError("no room")
    assert capsys.readouterr().err == "wandb: no room\n"


def test_wandb_that_is_not_installed_is_named_before_anything_is_loaded(
    config: InferConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_records, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^logging.backend: wandb is not installed: pip install wandb"):
        check_logging(config)


def test_wandb_is_loaded_only_when_asked_for(tmp_path: Path) -> None:
    before = "wandb" in sys.modules
    with TextRecords(InferConfig(), "m") as records:
        records.write(RECORDS[0])
    assert ("wandb" in sys.modules) == before
