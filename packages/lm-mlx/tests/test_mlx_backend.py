"""The backend's own: weights that do not fit, and what MLX cannot promise."""

import numpy as np
import pytest

from lm_core.config import StepConfig
from lm_core.errors import UserError
from lm_core.testing import ADAMW, MODELS, rough_arrays

pytest.importorskip("mlx.core")

import mlx.core as mx

from lm_mlx.backend import MlxBackend, check_numerics
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


def test_tf32_is_refused() -> None:
    config = MODELS["llama"]
    with pytest.raises(UserError, match="matmul_precision"):
        MlxBackend().build(
            config, ADAMW, StepConfig(device="cpu", matmul_precision="high"), rough_arrays(config), seed=0
        )


def test_seeds_together_are_refused_in_one_line() -> None:
    config = MODELS["llama"]
    with pytest.raises(UserError, match="2 seeds together: MLX trains one at a time"):
        MlxBackend().build_seeds(config, ADAMW, StepConfig(device="cpu"), [rough_arrays(config)] * 2, (0, 1))


def test_fixed_bits_are_promised_on_the_cpu_alone() -> None:
    step = StepConfig(deterministic=True)
    check_numerics(step, mx.Device(mx.cpu))
    with pytest.raises(UserError, match="deterministic"):
        check_numerics(step, mx.Device(mx.gpu))


def test_float8_is_refused_in_a_line() -> None:
    step, weights = StepConfig(device="cpu", dtype="float8"), rough_arrays(MODELS["testbed-d"])
    with pytest.raises(UserError, match=r"float8: MLX .* bfloat16"):
        MlxBackend().build(MODELS["testbed-d"], ADAMW, step, weights, 0)
