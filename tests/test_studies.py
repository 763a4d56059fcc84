"""The studies of configs/: each is checked as far as it is before its first run, and the frozen one stays as it is."""

import hashlib
from pathlib import Path

import pytest

from lm_bench.study.config import StudyConfig
from lm_bench.study.differences import differences
from lm_bench.study.plan import Planner, Trial, points_of
from lm_bench.study.result import RunResult
from lm_bench.study.worker import run_trial
from lm_core.run.log import read_records
from lm_pipeline.commands.make_data import make_data
from lm_pipeline.tokens.config import MakeDataConfig
from lm_pipeline.trials.program import program_of
from lm_tokenizer.adapters import train_tokenizer

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
STUDIES = sorted(CONFIGS.glob("study_*.toml"))
FROZEN = "41af66057c93416afaa7f34b1c4e0ac0bc6b484e7d437ca574efa1db61a08d13"


def test_the_studies_are_all_here() -> None:
    names = {"testbed_d", "testbed_d_short", "testbed_d_tuning", "testbed_d_gpu", "optimizers"}
    assert {StudyConfig.load(path).name for path in STUDIES} == names
    assert {path.stem for path in STUDIES} == {f"study_{name}" for name in names}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_arm_of_every_variant_is_a_config_of_its_program(path: Path) -> None:
    for study in StudyConfig.load(path).each():
        maker = Planner(study, program_of(study.app), path.name)
        for arm in study.arms:
            for point in points_of(study.grid(arm)):
                for budget in study.budgets:
                    config = maker.parsed(arm, point, budget)
                    assert config.seed == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("variant", ["deterministic", "jitter", "bursts"])
def test_the_testbed_d_study_is_sound_and_hides_no_difference(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh ijkl\n" * 400)
    [study] = StudyConfig.load(CONFIGS / "study_testbed_d.toml").each(variant)
    study = study.model_copy(update={"base": study.base | {"text": str(text)}})
    maker = Planner(study, program_of(study.app), "study")
    plans = maker.check()
    assert not [one.line for one in differences(study, plans) if one.alarm]
    assert plans["adam_95"].schedule.points == ((1, 3e-4), (600, 1.5e-4), (800, 3e-5))
    assert plans["kbeta"].optimizer.warmup_steps == 7  # type: ignore[union-attr]


def test_the_optimizer_track_is_frozen() -> None:
    found = hashlib.sha256((CONFIGS / "study_optimizers.toml").read_bytes()).hexdigest()
    assert found == FROZEN, "results compare only where this file is the same: start another track in another file"


TINY: dict[str, dict[str, object]] = {
    "testbed_d": {
        "d_model": 16, "n_layer": 1, "n_head": 2, "batch": 2, "ctx": 16, "lmin": 8, "lmax": 16, "len_bucket": 8,
        "eval_bs": 2, "sample": 0, "log_every": 1, "text": "text.txt",
    },
    "train": {
        "data": {"train": "tokens/train.npy", "validation": "tokens/validation.npy", "tokenizer": "tok"},
        "model": {"seq_len": 16, "d_model": 16, "n_layers": 1, "n_heads": 2},
        "training": {"batch_size": 2, "sample_tokens": 0, "log_every": 1},
        "logging": {"backend": []},
    },
}  # fmt: skip
ARMS = {
    "testbed_d": {"a": {"opt": "kbeta"}, "b": {"opt": "adam"}},
    "train": {"a": {"optimizer": {"name": "muon"}}, "b": {"optimizer": {"name": "adamw"}}},
}


@pytest.mark.parametrize("app", TINY)
def test_arms_start_from_the_same_bits_and_batches_and_repeat_to_the_bit(
    app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("To be, or not to be.\n\n" * 200)
    train_tokenizer("characters", [Path("text.txt").read_text()]).save(Path("tok"))
    values = {"train": ["text.txt"], "validation_fraction": 0.5, "separator": "\n\n", "eos_between_documents": False}
    make_data(MakeDataConfig.parse({**values, "tokenizer": "tok", "output": "tokens", "threads": 1}))
    steps = "steps" if app == "testbed_d" else "training.max_steps"
    said = {"name": "s", "question": "?", "app": app, "smallest_effect": 0.1, "budgets": [4], "seeds": 2}
    study = StudyConfig.parse({**said, "tuning_seeds": [], "steps_key": steps, "base": TINY[app], "arms": ARMS[app]})
    maker = Planner(study, program_of(app), "study")
    maker.check()
    [first, again, other] = [
        ran(maker.trial(arm, {}, 4, 0, "torch", "comparison"), Path(folder), maker)
        for folder, arm in (("one", "a"), ("two", "a"), ("one", "b"))
    ]
    assert [run.status for run in (first, again, other)] == ["complete"] * 3
    assert first.metric == again.metric != other.metric
    assert losses(first)[0] == losses(other)[0]  # the paired seed: the same weights, the same first batch
    assert losses(first) == losses(again)


def ran(trial: Trial, folder: Path, maker: Planner) -> RunResult:
    run = trial.folder(folder)
    run.parent.mkdir(parents=True, exist_ok=True)
    run.with_suffix(".toml").write_text(trial.toml)
    task = {**trial.identity(), "config_hash": trial.hash, "metric": maker.study.metric}
    result = run_trial(maker.program, {**task, "folder": str(run), "config": str(run.with_suffix(".toml"))})
    assert result is not None
    return result


def losses(run: RunResult) -> list[float]:
    return [record["loss_nats"] for record in read_records(run.folder / "metrics.jsonl") if record["kind"] == "train"]
