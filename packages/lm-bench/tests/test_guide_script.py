"""The plain script that mini_gpt is measured against is the same model, and learns."""

import argparse
import json
import math
import sys
from pathlib import Path

import pytest

from lm_core.config import ModelConfig
from lm_core.model.parameters import parameter_count

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "text.txt").write_text("0123456789 and some words to make it long enough\n" * 200)
    words = "--vocab_size 280 --block_size 16 --n_layer 1 --n_embed 16 --n_head 2 --batch_size 4 --dropout 0"
    argv = ["guide", "--data_file", str(tmp_path / "text.txt"), *words.split(), "--max_steps", "60"]
    monkeypatch.setattr(sys, "argv", [*argv, "--warmup_steps", "5", "--base_lr", "0.01", "--eval_every", "30"])
    return sys.argv[1:]


def test_it_learns_and_its_last_line_is_the_result(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from lm_bench.peers.guide_script import main

    main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["steps"] == 60
    assert result["best_val_loss"] <= result["val_loss"] < math.log(280) - 2
    assert result["tokens_per_second"] > 0


def test_it_has_as_many_parameters_as_ours() -> None:
    from lm_bench.peers.guide_script import GPT

    flags = argparse.Namespace(n_embed=16, n_layer=3, n_head=2, block_size=8, dropout=0.1)
    ours = ModelConfig(vocab_size=50, seq_len=8, d_model=16, n_layers=3, n_heads=2, tie_embeddings=True)
    assert sum(parameter.numel() for parameter in GPT(50, flags).parameters()) == parameter_count(ours)
