"""Training takes token files that have no sidecar, when the tokenizer is named."""

from pathlib import Path

import numpy as np
import pytest

from lm_core.data.token_file import TokenFile
from lm_core.errors import UserError
from lm_core.run.plan import Plan
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_plan import folder_of, plan_run
from lm_tokenizer import Tokenizer


def plan(train: str, validation: str, tokenizer: str = "tok") -> Plan:
    values = {
        "data": {"train": train, "validation": validation, "tokenizer": tokenizer},
        "model": {"seq_len": 16, "d_model": 16, "n_layers": 1, "n_heads": 2},
        "training": {"batch_size": 4, "max_steps": 10},
    }
    config = TrainConfig.parse(values)
    return plan_run(config, folder_of(config))


def test_the_batches_are_those_of_the_same_ids_with_a_sidecar(
    workplace: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "validation"):
        ids = TokenFile.open(f"tokens/{split}.npy").tokens[:]
        ids.astype("<u2").tofile(workplace / f"{split}.bin")
        np.save(workplace / f"{split}.npy", ids.astype(np.int64))
    whole, batch = plan("tokens/train.npy", "tokens/validation.npy"), None
    capsys.readouterr()
    for suffix in ("bin", "npy"):
        bare = plan(f"train.{suffix}", f"validation.{suffix}")
        said = capsys.readouterr().err
        assert f"note: train.{suffix} has no sidecar" in said
        assert "whether they are from this tokenizer cannot be checked" in said
        for step in (1, 7):
            batch = bare.batches.batch(step)
            assert (batch.inputs == whole.batches.batch(step).inputs).all()
        assert [b.tokens for b in bare.evaluation] == [b.tokens for b in whole.evaluation]


def test_an_id_beyond_the_tokenizer_and_a_tokenizer_that_is_not_named_are_one_line(
    workplace: Path, tokenizer: Tokenizer
) -> None:
    np.array([tokenizer.vocab_size] * 100, "<u2").tofile(workplace / "train.bin")
    with pytest.raises(UserError, match=r"data\.train: token file train\.bin holds id 300 .* vocabulary of 300"):
        plan("train.bin", "tokens/validation.npy")
    with pytest.raises(UserError, match=r"data\.tokenizer: name the tokenizer"):
        plan("train.bin", "tokens/validation.npy", "")
