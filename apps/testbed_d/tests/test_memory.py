"""A model that does not fit the memory is refused before anything is written."""

from pathlib import Path
from typing import Any

import pytest

from lm_core.errors import UserError
from lm_core.run import session
from testbed_d import cli


class Small:
    """A backend of a device with a gigabyte: room for the model, but not for its batch."""

    def describe(self, step: Any) -> str:
        return "small"

    def memory(self, step: Any) -> int:
        return 1 << 30


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "load_backend", lambda _: Small())
    (tmp_path / "text.txt").write_text("some words of a text\n" * 200)
    flags = ["--text", "text.txt", "--steps", "1", "--batch", "100000", "--lmin", "32", "--lmax", "32", "--ctx", "32"]
    with pytest.raises(
        UserError, match=r"training needs at least .* lower --batch to [0-9,]+, .* --lmax or --d_model$"
    ):
        cli.run([*flags, "--save_dir", "run"])
    assert not (tmp_path / "run" / "config.toml").exists()
