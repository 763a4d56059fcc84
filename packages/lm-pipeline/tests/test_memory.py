"""A model that does not fit the memory is refused before anything is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_core.run import session
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_plan import KNOBS


class Small:
    """A backend of a device with a megabyte."""

    def describe(self, step: Any) -> str:
        return "small"

    def memory(self, step: Any) -> int:
        return 1 << 20


def test_a_run_that_does_not_fit_is_refused(
    run_train: Callable[..., int], workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "load_backend", lambda _: Small())
    data = ["--data.train", "tokens/train.npy", "--data.validation", "tokens/validation.npy"]
    sizes = ["--model.d_model", "512", "--model.seq_len", "16", "--training.batch_size", "2"]
    before = sorted(workplace.rglob("*"))
    assert run_train(*data, "--data.tokenizer", "tok", *sizes, "--save_dir", "run") == 2
    said = capsys.readouterr().err
    assert "training needs at least" in said
    assert said.endswith("and the device has 1 MiB: lower model.d_model\n")
    assert sorted(workplace.rglob("*")) == before


@pytest.mark.parametrize("key", KNOBS.values())
def test_advice_names_keys_that_there_are(key: str) -> None:
    table, name = key.split(".")
    assert name in type(getattr(TrainConfig(), table)).model_fields
