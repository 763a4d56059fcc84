"""Models that decode: those of `lm-bench train`, with weights under which greedy decoding does not repeat itself."""

import numpy as np

from lm_bench.cases import CASES, SEED, random_walk
from lm_bench.train.workload import GPT2_124M
from lm_core.config import Dtype, ModelConfig
from lm_core.errors import UserError
from lm_core.model.parameters import parameter_table

CHAR_CONTEXT = 256
"""nanogpt-char is trained on 64 tokens, which leaves no room for a prompt and a text."""
INIT_STD = 0.1
"""At 0.02 the residual stream is little but the last id's embedding, and the head, which is that same table, names that
id again and again: equal ids would prove nothing. Here the blocks outweigh the embedding."""
BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float8": 2}


def model_of(case: str) -> ModelConfig:
    """The model of a case, as it decodes."""
    model = GPT2_124M
    if case == "nanogpt-char":
        model = CASES[case].model.model_copy(update={"seq_len": CHAR_CONTEXT})
    return model.model_copy(update={"init_std": INIT_STD})


def check_room(case: str, model: ModelConfig, prompt_tokens: int, tokens: int) -> None:
    """Raise a `UserError` when prompt and text do not fit into the model's context."""
    if prompt_tokens + tokens > model.seq_len:
        raise UserError(
            f"--prompt_tokens {prompt_tokens} and --tokens {tokens} are more than the context of {case},"
            f" {model.seq_len} tokens"
        )


def prompts_of(model: ModelConfig, rows: int, tokens: int) -> list[list[int]]:
    """Different prompts, all of one length."""
    ids = random_walk(model.vocab_size)
    starts = np.random.default_rng(SEED).integers(0, len(ids) - tokens, size=rows)
    return [ids[start : start + tokens].tolist() for start in starts]


def bytes_per_id(model: ModelConfig, dtype: Dtype) -> int:
    """Bytes of the weights that have to be read for one step: all but the tables of which one row is looked up.

    A tied token table is the head too, and is read whole. The cache is not counted.
    """
    lookups = {"pos_embed.weight"} if model.tie_embeddings else {"pos_embed.weight", "embed.weight"}
    table = parameter_table(model)
    return BYTES[dtype] * sum(parameter.size for name, parameter in table.items() if name not in lookups)
