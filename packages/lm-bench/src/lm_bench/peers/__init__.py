"""The plain loops: the same models as a competent user writes them from each framework's tutorial.

No protocol, no logging, no options but the ones measured. Each module imports its framework, so it is loaded by name
when it is needed.
"""

from lm_core.config import ModelConfig


def check_plain(model: ModelConfig) -> None:
    """The plain loops are GPT-2's block and nothing else."""
    assert model.norm == "layer", "the plain loops have LayerNorm"
    assert model.positions == "learned", "the plain loops have learned positions"
    assert model.mlp in ("gelu", "gelu_tanh"), "the plain loops have a GELU MLP"
    assert model.kv_heads == model.n_heads, "the plain loops have as many key as query heads"
    assert model.dropout == 0, "the plain loops have no dropout"
