"""Folders and files whose names are not UTF-8, from text to token files to a plan of training."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lm_core.config import read_toml
from lm_core.file_names import json_text
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_plan import folder_of, plan_run

Run = Callable[..., int]
ODD = os.fsdecode(b"caf\xe9")


@pytest.fixture
def place(folder: Path) -> Path:
    """A folder of such a name, with texts of every kind."""
    place = folder / ODD
    place.mkdir()
    (place / "a.txt").write_text("a text that is long enough\n\n" * 40)
    (place / "b.jsonl").write_text("".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(9)))
    with (place / f"{ODD}.parquet").open("wb") as file:
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a row"] * 9}), file)
    with (
        (place / "d.arrow").open("wb") as file,
        pyarrow.ipc.new_file(file, pyarrow.schema({"text": "string"})) as table,
    ):
        table.write_table(pyarrow.table({"text": ["a row"] * 9}))
    return place


def test_every_program_takes_them_and_its_config_comes_back(
    place: Path, run_train_tokenizer: Run, run_make_data: Run, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run_train_tokenizer("--input", ODD, "--vocab_size", 300, "--save_dir", f"{ODD}/tok") == 0
    words = ["--train", ODD, "--tokenizer", f"{ODD}/tok", "--output", f"{ODD}/out", "--validation_fraction", 0.3]
    separated = ["--separator", "\n\n", "--exclude", "tok"]
    assert run_make_data(*words, *separated) == 0
    capfdbinary.readouterr()
    assert run_make_data("--config", f"{ODD}/out/make_data.toml") == 0
    assert b"nothing to do" in capfdbinary.readouterr().err
    values = {
        "data": {"train": f"{ODD}/out/train.npy", "validation": f"{ODD}/out/validation.npy", "tokenizer": f"{ODD}/tok"},
        "model": {"seq_len": 4, "d_model": 16, "n_layers": 1, "n_heads": 2},
        "training": {"batch_size": 2},
        "save_dir": f"{ODD}/run",
    }
    config = TrainConfig.parse(values)
    folder = folder_of(config)
    plan = plan_run(config, folder)
    folder.prepare(plan.config_toml())
    kept = read_toml(f"{ODD}/run/config.toml")
    assert kept["data"]["train"] == str((place / "out/train.npy").resolve())
    assert TrainConfig.parse(kept).data.model_dump() == plan.kept_config["data"]
    assert json.loads(json_text({"params.checkpoint": f"{ODD}/run"})) == {"params.checkpoint": f"{ODD}/run"}


def test_text_that_is_not_utf8_is_one_line(
    place: Path, run_make_data: Run, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run_make_data("--train", ODD, "--tokenizer", "tok", "--output", "out", "--separator", ODD) == 2
    assert b"--separator: this is text, and not UTF-8" in capfdbinary.readouterr().err
