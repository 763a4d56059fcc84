"""Model FLOPs, for its utilization of a device.

Source: Chowdhery et al. 2022 (PaLM), appendix B.
"""

from lm_core.config import ModelConfig
from lm_core.model.parameters import parameter_table


def flops_per_token(model: ModelConfig, seq_len: int) -> float:
    """Matrix operations of a training step for each token: 6 N + 12 L D T, forward and backward.

    N is the number of parameters that are multiplied with, so neither the position table nor the token table counts,
    which are looked up; a tied token table does, as the output head. T is `seq_len`, the length of the rows. As in PaLM
    the attention term is that of all T^2 pairs, though a causal kernel skips half of them.
    """
    looked_up = {"pos_embed.weight"} if model.tie_embeddings else {"pos_embed.weight", "embed.weight"}
    multiplied = sum(p.size for name, p in parameter_table(model).items() if name not in looked_up)
    return 6.0 * multiplied + 12.0 * model.n_layers * model.d_model * seq_len
