"""A model that does not fit the memory is refused before anything is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_core.run import session


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
    assert "training needs at least" in capsys.readouterr().err
    assert sorted(workplace.rglob("*")) == before
