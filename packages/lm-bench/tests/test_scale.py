"""The paper behind docs/scale.md: simulations against closed forms, and parts against sums."""

import math

import numpy as np
import pytest

from lm_bench.flags import ScaleFlags
from lm_bench.scale import failures, stragglers
from lm_bench.scale.job import GLOBAL_ROWS, JOBS, LARGE, SMALL, Job
from lm_bench.scale.report import tables
from lm_core.model.memory import readable

TIMES = [(10, 300, 11_133), (60, 0, 11_133), (300, 300, 11_133), (10, 300, 1e6)]
"""Seconds of a save, of a restart, and between failures."""


@pytest.mark.parametrize(("save", "restart", "between"), TIMES)
def test_the_formulas_are_the_minimum_of_what_is_lost(save: float, restart: float, between: float) -> None:
    every = np.geomspace(10, 100_000, 200_001)
    least = every[np.argmin([failures.lost(e, save, restart, between) for e in every[::50]]) * 50]
    assert failures.daly(save, between) == pytest.approx(least, rel=2e-3)
    first_order = math.sqrt(2 * save * between)
    assert failures.young(save, between) == pytest.approx(first_order, rel=1e-12)
    assert failures.daly(save, between) == pytest.approx(first_order - 2 / 3 * save, rel=1e-2)


@pytest.mark.parametrize(("save", "restart", "between"), TIMES)
def test_the_simulated_optimum_is_that_of_the_formulas(save: float, restart: float, between: float) -> None:
    found = failures.simulated(save, restart, between, seed=1)
    assert abs(found.every - failures.daly(save, between)) < 3 * found.error
    assert found.error < 0.01 * found.every
    assert found.lost == pytest.approx(failures.lost(found.every, save, restart, between), rel=0.1)


def test_the_expected_largest_of_few_numbers_is_known() -> None:
    """Of 2 and of 3 normal numbers 1 / sqrt(pi) and 1.5 / sqrt(pi); of 3 exponential ones 1 + 1/2 + 1/3."""
    assert stragglers.largest_normal(1) == pytest.approx(0, abs=1e-9)
    assert stragglers.largest_normal(2) == pytest.approx(1 / math.sqrt(math.pi), rel=1e-6)
    assert stragglers.largest_normal(3) == pytest.approx(1.5 / math.sqrt(math.pi), rel=1e-6)
    assert stragglers.largest_exponential(3) == pytest.approx(1 / 2 + 1 / 3, rel=1e-12)


@pytest.mark.parametrize("ranks", [1, 2, 64])
def test_stragglers_that_are_drawn_cost_what_the_formulas_say(ranks: int) -> None:
    for kind, formula in (("normal", stragglers.largest_normal), ("exponential", stragglers.largest_exponential)):
        found = stragglers.simulated(kind, ranks, seed=1)
        assert abs(found.mean - formula(ranks)) < 4 * found.error


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=lambda size: size.name)
def test_shares_of_eight_gpus_are_an_eighth_and_one_gpu_sends_nothing(size: object) -> None:
    one, eight, shared = (Job(size, *rest) for rest in ((1, "ddp"), (8, "ddp"), (8, "fsdp")))  # type: ignore[arg-type]
    assert one.sent == 0
    assert one.tokens_per_second[0] == one.tokens_per_second[1]
    assert (shared.memory.weights, shared.memory.optimizer) == (eight.memory.weights // 8, eight.memory.optimizer // 8)
    assert eight.sent == pytest.approx(2 * 7 / 8 * 4 * eight.size.parameters)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job.size.name} {job.gpus} {job.parallel}")
def test_every_job_has_the_same_batch_and_fits_its_card(job: Job) -> None:
    assert job.micro * job.parts * job.gpus == GLOBAL_ROWS
    assert job.memory.total + job.copies < 80e9, readable(job.memory.total)
    least, most = job.tokens_per_second
    assert least <= most


def test_the_tables_are_the_same_every_time() -> None:
    assert [str(table) for table in tables(ScaleFlags())] == [str(table) for table in tables(ScaleFlags())]
    assert str(tables(ScaleFlags())[3]) != str(tables(ScaleFlags(seed=1))[3])
