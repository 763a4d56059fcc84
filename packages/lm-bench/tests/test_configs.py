"""The config files of the commands."""

from pathlib import Path

import pytest

from lm_bench.flags import InferFlags, TokenizerFlags, TrainFlags
from lm_core.cli import parse_flags

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
FLAGS = {"bench_train": TrainFlags, "bench_infer": InferFlags, "bench_tokenizer": TokenizerFlags}


@pytest.mark.parametrize("name", FLAGS)
def test_a_config_loads_and_a_flag_wins_over_it(name):
    path = CONFIGS / f"{name}.toml"
    flags = parse_flags(FLAGS[name], "lm-bench", ["--config", str(path), "--rounds", "3"])
    assert flags.rounds == 3
    assert FLAGS[name].load(path).rounds != 3


def test_every_config_of_a_measurement_is_loaded_here():
    assert {path.stem for path in CONFIGS.glob("bench_*.toml")} == set(FLAGS)


@pytest.mark.parametrize("name", FLAGS)
def test_paths_are_those_of_any_machine(name):
    flags = FLAGS[name].load(CONFIGS / f"{name}.toml").model_dump()
    texts = [flags.get("text"), flags.get("vocab_json"), flags.get("merges"), *flags.get("corpora", ())]
    assert all(path.startswith("data/") for path in texts if path)
