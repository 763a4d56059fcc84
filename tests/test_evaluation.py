"""Evaluation on either backend: one answer, the one of training's validation; and the table of the guide."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.backend import load_backend
from lm_core.config import AdamWConfig, ModelConfig, StepConfig
from lm_core.data.batches import SequentialWindows
from lm_core.run.evaluation import evaluate as validate
from lm_core.testing import rough_arrays
from lm_pipeline.evaluation.evaluate import build, evaluate
from lm_pipeline.evaluation.text import EvaluationText
from lm_pipeline.saved_model import SavedModel
from lm_tokenizer import Tokenizer

GUIDE = (Path(__file__).resolve().parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
TEXT = "A quick brown fox in 東京 🦊 jumps over 12 lazy dogs. " * 9
BACKENDS = ["torch", "mlx"]


@pytest.fixture(scope="module")
def model() -> SavedModel:
    tokenizer = Tokenizer.train([TEXT], 280, ["<|endoftext|>"], progress=False)
    config = ModelConfig(vocab_size=280, seq_len=16, d_model=16, n_layers=2, n_heads=2, mlp="gelu", tie_embeddings=True)
    return SavedModel(config, rough_arrays(config), tokenizer, "small")


def figures(backend: str, model: SavedModel, stride: int) -> dict[str, Any]:
    text = EvaluationText("text", model.tokenizer.encode_array(TEXT))
    return evaluate(build(model, load_backend(backend), StepConfig(device="cpu")), model, text, stride, 4)


@pytest.mark.parametrize("stride", [16, 5])
def test_the_backends_give_one_answer(model: SavedModel, stride: int) -> None:
    pytest.importorskip("mlx.core")
    torch, mlx = (figures(backend, model, stride) for backend in BACKENDS)
    assert torch.keys() == mlx.keys()
    for key in ("loss_nats", "bits_per_byte", "perplexity", "accuracy", "top5_accuracy", "calibration_error"):
        assert torch[key] == pytest.approx(mlx[key], rel=1e-5), key
    for one, other in zip(torch["loss_by_position"], mlx["loss_by_position"], strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_windows_that_do_not_overlap_give_the_validation_loss_of_training(model: SavedModel, backend: str) -> None:
    pytest.importorskip("torch" if backend == "torch" else "mlx.core")
    trainer = load_backend(backend).build(model.config, AdamWConfig(), StepConfig(device="cpu"), model.weights, 0)
    expected = validate(trainer, SequentialWindows(model.tokenizer.encode_array(TEXT), 4, 16))
    found = figures(backend, model, 0)
    assert found["loss_nats"] == pytest.approx(expected.loss_nats, rel=1e-6)
    assert found["targets"] == expected.tokens
    assert found["text_bytes"] == len(TEXT.encode()) - int(
        model.tokenizer.byte_lengths[model.tokenizer.encode(TEXT)[0]]
    )


def test_the_guide_lists_every_figure_and_no_other(model: SavedModel) -> None:
    rows = [line.split("|")[1] for line in GUIDE.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    found = json.loads(json.dumps(figures("torch", model, 0)))
    assert listed == {"checkpoint", "text", *found}
    bits = np.log2(50_257)
    assert f"log2 50,257 = {bits:.1f} bits" in GUIDE
    assert f"{bits / 4.4:.1f}\nbits" in GUIDE
