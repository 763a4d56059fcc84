"""transformer_lm as its users meet it, on either backend: one answer."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from lm_tokenizer import Tokenizer

from .runs import BACKENDS, LAYOUTS, SMALL, App, losses, records


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_on_either_backend_goes_on_on_the_other_and_all_agree(app: App, data: Path, layout: str) -> None:
    dataset, _ = LAYOUTS[layout]
    flags = ["--dataset", dataset, "--data_dir", data / layout, *SMALL, "--steps_per_report", 1, "--steps_per_eval", 5]
    for first, second in zip(BACKENDS, reversed(BACKENDS), strict=True):
        assert app(*flags, "--save_dir", first, "--num_iters", 10, "--backend", first).code == 0
        done = app("--save_dir", first, "--num_iters", 15, "--backend", second)
        assert done.code == 0, done.err
        assert "resuming " in done.err
    ours, theirs = (Path(backend) / f"001-{dataset}" for backend in BACKENDS)
    assert [(record["kind"], record["step"]) for record in records(ours)] == [
        (kind, step) for step in range(1, 16) for kind in ("train", "eval") if kind == "train" or step % 5 == 0
    ]
    figure = "bits_per_byte" if dataset == "enwik8" else "perplexity"
    assert all(figure in record for record in records(ours) if record["kind"] == "eval")
    np.testing.assert_allclose(losses(ours), losses(theirs), rtol=0, atol=1e-4)
    samples = (ours / "samples.txt").read_bytes()
    assert samples.startswith(b"--- step 10, ")
    assert b"--- step 15, " in samples
    assert samples == (theirs / "samples.txt").read_bytes()


def test_prompts_of_a_pipe_are_continued_alike_on_both_backends(
    app: App, train: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = app("--inference", "--save_dir", "runs/none")
    assert refused.code == 2
    assert "there is no checkpoint in runs/none: train a model first" in refused.err
    assert refused.err.count("\n") == 1
    assert not Path("runs").exists()
    train("--num_iters", 5)
    said = []
    for backend in BACKENDS:
        monkeypatch.setattr(sys, "stdin", io.StringIO("w1 w2\nw3 newt\n"))
        done = app("--inference", "--backend", backend, "--seed", 3)
        assert done.code == 0
        assert "line 2: note: not in the vocabulary, and read as <unk>: 'newt'" in done.err
        said.append(done.out)
    assert said[0] == said[1]
    assert said[0].startswith("w1 w2 w")
    assert len(said[0].split()) > 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_checkpointing_changes_no_loss(train: App, backend: str) -> None:
    for name, words in {"plain": [], "less": ["--checkpoint"]}.items():
        train("--save_dir", name, "--num_iters", 5, "--dropout", 0.1, "--backend", backend, *words)
    np.testing.assert_allclose(losses(Path("plain/001-ptb")), losses(Path("less/001-ptb")), rtol=0, atol=1e-6)


def test_the_test_split_is_measured_when_training_has_ended_or_afterwards(train: App) -> None:
    runs = Path("runs/transformer-lm")
    assert "test loss" not in train("--num_iters", 5).out
    said = train("--num_iters", 5, "--eval_test")
    assert '"kind": "test", "step": 5' in said.out
    assert records(runs / "001-ptb")[-1]["kind"] == "test"
    train("--num_iters", 6)
    assert records(runs / "001-ptb")[-1]["kind"] == "train", "--eval_test is of one call"


def test_another_tokenizer_is_carried_by_the_run(train: App, app: App, data: Path, tmp_path: Path) -> None:
    text = (data / "ptb" / "ptb.train.txt").read_text()
    Tokenizer.train([text], 280, [], progress=False).save(tmp_path / "tok")
    train("--tokenizer", "tok", "--num_iters", 3)
    train("--tokenizer", "tok", "--num_iters", 5)
    run = tmp_path / "runs/transformer-lm/001-ptb"
    assert "bits_per_byte" in records(run)[-1]
    (tmp_path / "tok").rename(tmp_path / "gone")
    assert app("--num_iters", 6).code == 0
