"""Runs of several processes through the session: the curve of one process, any number of them, and what kills one."""

import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .rank_program import curve, records, run, start


def trained(size: int, path: Path, **options: Any) -> Path:
    """A run by so many ranks, which must end well."""
    ends = [(*rank.communicate(), rank.returncode) for rank in start(size, path, **options)]
    assert [code for *_, code in ends] == [0] * size, ends
    assert all(not out and not complaints for out, complaints, _ in ends[1:]), "rank 0 alone prints"
    return path


@pytest.fixture(scope="module")
def mlx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mlx.core")
    return trained(2, tmp_path_factory.mktemp("ranks") / "mlx", backend="mlx")


def test_two_ranks_of_mlx_have_the_curve_of_one_process(mlx: Path, tmp_path: Path) -> None:
    run(tmp_path / "alone", backend="mlx")
    np.testing.assert_allclose(curve(mlx), curve(tmp_path / "alone"), rtol=0, atol=1e-5)


def test_a_run_of_two_ranks_of_mlx_resumes_alone_with_torch(mlx: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run(mlx, steps=9)
    run(tmp_path / "alone", steps=9)
    np.testing.assert_allclose(curve(mlx), curve(tmp_path / "alone"), rtol=0, atol=1e-5)


# The campaign


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Curves of one process, by optimizer."""
    folder, curves = tmp_path_factory.mktemp("alone"), {}
    for optimizer in ("adamw", "kbeta", "muon"):
        run(folder / optimizer, optimizer=optimizer, steps=12)
        curves[optimizer] = curve(folder / optimizer)
    return curves


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("optimizer", ["adamw", "kbeta", "muon"])
def test_any_number_of_ranks_has_the_curve_of_one_process(
    tmp_path: Path, alone: dict[str, list[float]], optimizer: str, parallel: str, size: int
) -> None:
    path = trained(size, tmp_path / "run", optimizer=optimizer, parallel=parallel, steps=12)
    np.testing.assert_allclose(curve(path), alone[optimizer], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "kbeta", "muon"])
@pytest.mark.parametrize(
    ("size", "backend", "parallel"), [(1, "torch", "ddp"), (2, "torch", "fsdp"), (1, "mlx", "ddp")]
)
def test_a_checkpoint_of_four_sharded_ranks_resumes_on_others(
    tmp_path: Path, alone: dict[str, list[float]], optimizer: str, size: int, backend: str, parallel: str
) -> None:
    path = trained(4, tmp_path / "run", optimizer=optimizer, parallel="fsdp", steps=6)
    if size == 1:
        run(path, backend=backend, optimizer=optimizer, steps=12)
    else:
        trained(size, path, optimizer=optimizer, parallel=parallel, steps=12)
    # The last step of the first call has an evaluation of its own.
    ours = {(one["kind"], one["step"]): one["loss_nats"] for one in records(path)}
    theirs = dict(zip(_keys(12), alone[optimizer], strict=True))
    np.testing.assert_allclose([ours[key] for key in theirs], [*theirs.values()], rtol=0, atol=1e-5)


def _keys(steps: int) -> list[tuple[str, int]]:
    found = []
    for step in range(1, steps + 1):
        found.append(("train", step))
        if step in (1, steps) or step % 3 == 0:
            found.append(("eval", step))
    return found


@pytest.mark.slow
def test_a_rank_that_is_killed_at_any_instant_stops_the_others_and_the_run_resumes_exactly(tmp_path: Path) -> None:
    options = {"steps": 60, "parallel": "fsdp"}
    whole = records(trained(2, tmp_path / "whole", **options))
    draw, stopped = random.Random(7), 0
    for trial in range(20):
        path = tmp_path / str(trial)
        ranks = start(2, path, **options)
        while not (path / "metrics.jsonl").exists():
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 2))
        victim = draw.randrange(2)
        ranks[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        ends = [rank.communicate() for rank in ranks]
        assert time.monotonic() - killed < 30
        if ranks[victim].returncode == -signal.SIGKILL and ranks[1 - victim].returncode:
            stopped += 1
            assert ranks[1 - victim].returncode == 1
            assert ends[1 - victim][1].count("another rank has ended") == 1, ends
            assert "Traceback" not in ends[1 - victim][1], ends
        trained(2, path, **options)
        assert records(path) == whole, trial
    assert stopped >= 10, "most of the instants were within the run"
