"""A tiny model that is trained to repeat patterns has an induction head, which its study shows; on both backends."""

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lm_core.backend import load_backend
from lm_core.config import StepConfig
from lm_core.model.init import initial_arrays
from lm_core.reference import model as reference
from lm_pipeline.inside.page import first_and_second
from lm_pipeline.inside.study import Study

from .tools import load_tool

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def induction() -> ModuleType:
    return load_tool("induction")


@pytest.fixture(scope="module")
def study(induction: ModuleType) -> Study:
    found: Study = induction.study_of(induction.trained())
    return found


def test_a_model_trained_to_repeat_patterns_shows_its_induction_head(study: Study) -> None:
    """In the second layer, as it needs one below; without it the loss rises, and with it repetition is foreseen."""
    layer, head = np.unravel_index(np.argmax(study.induction), study.induction.shape)
    assert layer == 1
    assert study.induction[layer, head] > 0.5
    assert study.induction[0].max() < 0.2
    assert study.ablation[layer, head] > 0.2
    first, second = first_and_second(study)
    assert second < 1.0 < 2.5 < first
    assert study.lens_loss_nats[1] < study.lens_loss_nats[0] - 0.5


def test_before_it_is_trained_there_is_none(induction: ModuleType) -> None:
    before: Study = induction.study_of(induction.trained(steps=0))
    assert before.induction.max() < 0.2
    np.testing.assert_allclose(before.ablation, 0, atol=0.05)


def test_both_backends_make_the_study_that_the_reference_weights_give(induction: ModuleType) -> None:
    """The same weights, untrained and made larger, so that attention is not uniform."""
    pytest.importorskip("mlx.core")
    weights = {name: 4 * array for name, array in initial_arrays(induction.MODEL, 1).items()}
    studies = [
        induction.study_of(load_backend(name).scorer(induction.MODEL, StepConfig(device="cpu"), weights))
        for name in ("torch", "mlx")
    ]
    for name, values in vars(studies[0]).items():
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            np.testing.assert_allclose(values, vars(studies[1])[name], atol=2e-5, err_msg=name)
    ids = induction.patterns(0, 0, 8).inputs[:1]
    expected = reference.attention_weights(induction.MODEL, weights, ids, 1)
    np.testing.assert_allclose(studies[0].text_maps[1], expected[0], atol=2e-6)


def test_the_picture_shows_every_head_with_its_scores(induction: ModuleType, study: Study) -> None:
    text = induction.picture(study)
    assert text.count("<image ") == 4
    assert f"induction {study.induction.max():.2f}" in text
    kept = (REPOSITORY / "docs" / "pictures" / "induction.svg").read_text(encoding="utf-8")
    assert kept.count("<image ") == 4


def test_the_example_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [source] = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "inside.md").read_text(), re.DOTALL)
    exec(compile(source, "inside.md", "exec"), {})
    assert capsys.readouterr().out.startswith("[[0.")
