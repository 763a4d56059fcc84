"""The studies of configs/: each is checked as far as it is before its first run, and the frozen one stays as it is."""

import hashlib
from pathlib import Path

import pytest

from lm_bench.study.config import StudyConfig
from lm_bench.study.differences import differences
from lm_bench.study.plan import Planner, points_of
from lm_pipeline.trials.program import program_of

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
STUDIES = sorted(CONFIGS.glob("study_*.toml"))
FROZEN = "025bcf09d7f04b65152d788f5808effa6bbab7e87c15ffc5984201e7f05137fb"


def test_the_studies_are_all_here() -> None:
    names = {"testbed_d", "testbed_d_short", "testbed_d_gpu", "optimizers"}
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
