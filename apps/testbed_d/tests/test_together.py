"""`--seeds ... --together`, whole: the curves of each seed alone, and the same bits however it was cut."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.log import read_records
from testbed_d.cli import main

pytest.importorskip("lm_torch")
SEEDS = "0", "1", "2"
WORDS = (
    "--d_model 16 --n_layer 1 --n_head 2 --batch 2 --lmin 16 --lmax 16 --ctx 16 --eval_bs 4 --sample 0"
    " --opt kbeta --deterministic --eval_every 5 --log_every 5 --save_every 5 --device cpu --backend torch"
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200)

    def run(folder, *words):
        argv = ["testbed_d", "--text", str(text), *WORDS.split(), "--seeds", *SEEDS, "--save_dir", str(folder), *words]
        monkeypatch.setattr(sys, "argv", argv)
        return main()

    return run


def folders(save_dir: Path):
    return [RunFolder(save_dir / f"seed-{seed}") for seed in SEEDS]


def losses(save_dir: Path):
    records = [read_records(folder.metrics) for folder in folders(save_dir)]
    return [[record["loss_nats"] for record in of if "loss_nats" in record] for of in records]


def state(folder: RunFolder):
    newest = Checkpoints(folder.checkpoints).newest(print)
    return {name: array.tobytes() for name, array in {**newest.weights, **newest.optimizer_state}.items()}


def test_each_seed_has_the_curve_that_it_has_alone(tmp_path, run):
    assert run(tmp_path / "alone", "--steps", "20") == 0
    assert run(tmp_path / "t", "--steps", "20", "--together") == 0
    np.testing.assert_allclose(losses(tmp_path / "t"), losses(tmp_path / "alone"), atol=1e-5)
    assert len({str(each) for each in losses(tmp_path / "t")}) == 3


@pytest.mark.gpu
def test_each_seed_has_the_curve_that_it_has_alone_on_a_gpu(tmp_path, run):
    """Steps are CUDA graphs here, captured in one thread and read in others."""
    for graph in ("auto", "off"):
        words = "--steps", "20", "--device", "gpu", "--cuda_graph", graph
        assert run(tmp_path / graph / "alone", *words) == 0
        assert run(tmp_path / graph / "t", *words, "--together") == 0
        np.testing.assert_allclose(losses(tmp_path / graph / "t"), losses(tmp_path / graph / "alone"), atol=1e-4)


def test_cut_between_the_saves_of_two_seeds_it_has_the_same_bits(tmp_path, run):
    assert run(tmp_path / "whole", "--steps", "20", "--together") == 0
    assert run(tmp_path / "t", "--steps", "10", "--together") == 0
    behind = Checkpoints(folders(tmp_path / "t")[1].checkpoints)
    newest = behind.newest(print).path
    for path in (newest, newest.with_suffix(".safetensors")):
        path.unlink()
    assert behind.newest(print).step == 5
    assert run(tmp_path / "t", "--steps", "20", "--together") == 0
    for ours, whole in zip(folders(tmp_path / "t"), folders(tmp_path / "whole"), strict=True):
        assert state(ours) == state(whole)
    assert [each[-1] for each in losses(tmp_path / "t")] == [each[-1] for each in losses(tmp_path / "whole")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--lmin", "8", "--no-deterministic"), "only on windows of one length: fix it, or train them in turn"),
        (("--backend", "mlx"), "MLX trains one at a time; train them in turn, or with torch"),
    ],
)
def test_what_cannot_be_trained_together_is_one_line_and_nothing_is_written(tmp_path, run, capsys, words, said):
    if "mlx" in words:
        pytest.importorskip("lm_mlx")
    assert run(tmp_path / "t", "--steps", "5", "--together", *words) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "t").rglob("config.toml"))
