"""The parameter table's names and counts, and initial weights that depend on the seed and the name alone."""

import hashlib
import math
from typing import Any

import numpy as np
import pytest

from lm_core.config import ModelConfig
from lm_core.model.init import initial_array, initial_arrays
from lm_core.model.parameters import parameter_count, parameter_table

GPT2 = ModelConfig(
    vocab_size=50257, seq_len=1024, d_model=768, n_layers=12, n_heads=12, tie_embeddings=True, depth_scaled_init=True
)
TESTBED_D = ModelConfig(vocab_size=65, seq_len=256, d_model=256, n_layers=6, n_heads=4, head_bias=True)


def small(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_layers": 2, "n_heads": 4, **changes})


def test_gpt2_small_has_the_published_number_of_parameters() -> None:
    assert parameter_count(GPT2) == 124_439_808


def test_testbed_d_has_under_five_million_parameters() -> None:
    assert parameter_count(TESTBED_D) == 4_837_953


def test_a_llama_like_model_has_the_count_of_its_formula() -> None:
    V, D, F, L, K, H = 100, 32, 96, 3, 2, 8
    config = small(
        vocab_size=V,
        d_model=D,
        d_ff=F,
        n_layers=L,
        n_kv_heads=K,
        bias=False,
        norm="rms",
        mlp="swiglu",
        positions="rope",
    )
    attention, mlp, norms = 2 * D * D + 2 * K * H * D, 3 * D * F, 2 * D
    assert parameter_count(config) == 2 * V * D + L * (attention + mlp + norms) + D


def test_a_tied_model_has_no_head_of_its_own() -> None:
    assert not any(name.startswith("lm_head") for name in parameter_table(small(tie_embeddings=True)))
    assert parameter_table(small())["lm_head.weight"].shape == (11, 16)
    assert "lm_head.bias" not in parameter_table(small())
    assert parameter_table(small(head_bias=True))["lm_head.bias"].shape == (11,)


@pytest.mark.parametrize(
    ("changes", "part", "there"),
    [
        ({"positions": "learned"}, "pos_embed", True),
        ({"positions": "rope"}, "pos_embed", False),
        ({"mlp": "gelu"}, "gate_proj", False),
        ({"mlp": "swiglu"}, "gate_proj", True),
        ({"bias": True, "norm": "layer"}, "norm.bias", True),
        ({"bias": True, "norm": "rms"}, "norm.bias", False),
        ({"bias": False}, ".bias", False),
    ],
)
def test_a_parameter_is_there_exactly_when_the_config_needs_it(changes: dict[str, Any], part: str, there: bool) -> None:
    assert any(part in name for name in parameter_table(small(**changes))) == there


def test_groups_follow_from_what_a_parameter_is() -> None:
    for name, parameter in parameter_table(small(head_bias=True, mlp="swiglu")).items():
        if "embed" in name:
            assert parameter.group == "embed"
        elif "norm" in name:
            assert parameter.group == "norm"
        else:
            assert parameter.group == ("bias" if name.endswith(".bias") else "matrix")


def test_one_array_alone_is_the_one_in_the_whole_whatever_the_order() -> None:
    config = small()
    table, arrays = parameter_table(config), initial_arrays(config, seed=5)
    assert list(arrays) == list(table)
    for name in reversed(table):
        np.testing.assert_array_equal(initial_array(5, name, table[name]), arrays[name])


def test_an_option_that_adds_parameters_leaves_the_others_as_they_were() -> None:
    plain, more = initial_arrays(small(), 0), initial_arrays(small(n_layers=3, head_bias=True), 0)
    for name, array in plain.items():
        np.testing.assert_array_equal(array, more[name])


def test_no_two_arrays_or_seeds_share_their_values() -> None:
    drawn = [a.tobytes() for seed in (0, 1) for a in initial_arrays(small(), seed).values() if a.std() > 0]
    assert len(set(drawn)) == len(drawn)


def test_values_are_as_the_table_says() -> None:
    config = small(vocab_size=997, d_model=128, n_layers=2, init_std=0.05, depth_scaled_init=True)
    table, arrays = parameter_table(config), initial_arrays(config, seed=0)
    for name, array in arrays.items():
        parameter = table[name]
        assert array.dtype == np.float32
        assert array.shape == parameter.shape
        if parameter.init == "normal":
            sigma = parameter.std / math.sqrt(array.size)
            assert abs(array.mean()) < 4 * sigma
            assert abs(array.std() - parameter.std) < 4 * sigma / math.sqrt(2)
        else:
            np.testing.assert_array_equal(array, 1.0 if "norm.weight" in name else 0.0)
    assert {p.std for n, p in table.items() if n.endswith(("o_proj.weight", "down_proj.weight"))} == {0.05 / 2}
    assert {p.std for n, p in table.items() if n.endswith(("q_proj.weight", "up_proj.weight", "embed.weight"))} == {
        0.05
    }


def test_the_initial_weights_have_not_changed() -> None:
    """A new numpy that drew other numbers would change every result. Rounded: libm may differ in the last bit."""
    digest = hashlib.sha256()
    for name, array in initial_arrays(small(mlp="swiglu", head_bias=True), seed=42).items():
        digest.update(name.encode() + np.round(array * 1e6).astype("<i4").tobytes())
    assert digest.hexdigest() == "173e4435d8a5bf9c6f9954c1b2c2582125aaf2585cf6bc08e8f0b40b46f6aeaa"
