"""Flags: what a run keeps of them, and what they mean in the project's terms."""

from pathlib import Path

import pytest

from lm_core.cli import parse_flags
from lm_core.config import Execution
from lm_core.errors import UserError
from transformer_lm.flags import Flags
from transformer_lm.resume_policy import ADVICE, POLICY, SHAPE
from transformer_lm.workload import model_of, step_of


def test_a_run_keeps_no_flag_of_one_call_and_paths_that_hold_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    here = str(tmp_path / "here")
    calls = {"save_dir": "s", "new_model": True, "identifier": "abcd", "eval_test": True, "config": "c.toml"}
    assert POLICY.kept(Flags(**calls, dim=8)) == POLICY.kept(Flags(dim=8))
    assert not POLICY.kept(Flags(**calls)).keys() & calls.keys()
    assert Flags(data_dir="here").absolute.data_dir == here
    for given, kept in {
        "here": here, "bpe:here": f"bpe:{here}", "bpe:gone": "bpe:gone", "tiktoken:here": "tiktoken:here", "": "",
    }.items():  # fmt: skip
        assert Flags(tokenizer=given).absolute.tokenizer == kept


def test_the_flags_of_the_step_reach_it() -> None:
    step = step_of(Flags(checkpoint=True, gpu=True, dtype="bfloat16", compile=True))
    assert (step.gradient_checkpointing, step.device, step.dtype, step.compile) == (True, "gpu", "bfloat16", True)
    assert not step_of(Flags()).gradient_checkpointing


def test_every_key_of_the_execution_is_a_flag() -> None:
    words = ["--dtype", "bfloat16", "--matmul_precision", "high", "--deterministic", "--compile", "--cuda_graph", "off"]
    words += ["--parallel", "fsdp"]
    step = step_of(parse_flags(Flags, "app", words))
    values = {"dtype": "bfloat16", "matmul_precision": "high", "deterministic": True, "compile": True}
    assert step.model_dump(include=set(Execution.model_fields)) == {**values, "cuda_graph": "off", "parallel": "fsdp"}


def test_what_differs_is_named_and_what_may_change_is_not() -> None:
    POLICY.check(Flags(), Flags(learning_rate=1.0, batch_size=1, backend="mlx"), ADVICE)
    POLICY.check(Flags(), Flags(seed=0), ADVICE, SHAPE)
    with pytest.raises(UserError, match="num_heads is 8 in the run and 4 here: leave these flags out"):
        POLICY.check(Flags(), Flags(num_heads=4), ADVICE, SHAPE)


def test_the_model_has_the_shape_of_the_flags() -> None:
    model = model_of(Flags(context_size=3, num_blocks=2, dim=16, num_heads=4, dropout=0.5), 7)
    shape = (model.vocab_size, model.seq_len, model.n_layers, model.d_model, model.n_heads, model.dropout)
    assert shape == (7, 3, 2, 16, 4, 0.5)


def test_every_flag_has_a_decision_on_what_a_run_that_goes_on_may_change() -> None:
    assert POLICY.problems(Flags) == []
    with pytest.raises(UserError, match="seed is 42 in the run and 0 here: leave these flags out"):
        POLICY.check(Flags(), Flags(seed=0), ADVICE)
