"""The backend's own: weights that do not fit."""

import numpy as np
import pytest

from lm_core.config import StepConfig
from lm_core.testing import MODELS, rough_arrays

pytest.importorskip("mlx.core")

from lm_mlx.step import load_weights, make_model


def test_weights_that_are_missing_are_refused() -> None:
    arrays = rough_arrays(MODELS["llama"])
    del arrays["norm.weight"]
    with pytest.raises(ValueError, match=r"norm\.weight is missing"):
        load_weights(make_model(MODELS["llama"], StepConfig(device="cpu")), arrays)


@pytest.mark.parametrize(("name", "shape"), [("norm.weight", (1,)), ("norm.weight", (5,)), ("nonsense", (3,))])
def test_weights_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    arrays = rough_arrays(MODELS["llama"]) | {name: np.zeros(shape, dtype=np.float32)}
    with pytest.raises(ValueError):
        load_weights(make_model(MODELS["llama"], StepConfig(device="cpu")), arrays)
