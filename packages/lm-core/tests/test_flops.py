"""Operations for each token, against sums made by hand."""

import pytest

from lm_core.config import ModelConfig
from lm_core.model.flops import flops_per_token
from lm_core.model.parameters import parameter_count

SMALL = ModelConfig(vocab_size=11, seq_len=16, d_model=4, n_layers=2, n_heads=2)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_it_is_that_of_the_matrices_multiplied_with_and_of_attention(tied: bool, positions: str) -> None:
    model = SMALL.model_copy(update={"tie_embeddings": tied, "positions": positions})
    looked_up = (0 if tied else 11 * 4) + (16 * 4 if positions == "learned" else 0)
    expected = 6 * (parameter_count(model) - looked_up) + 12 * 2 * 4 * 8
    assert flops_per_token(model, seq_len=8) == expected


def test_gpt2_small_is_near_its_124_million_parameters_times_six() -> None:
    model = ModelConfig(vocab_size=50257, seq_len=1024, d_model=768, n_layers=12, n_heads=12, tie_embeddings=True)
    assert flops_per_token(model, 1024) == pytest.approx(6 * 123.65e6 + 12 * 12 * 768 * 1024, rel=1e-3)
