import pytest

from lm_bench.cases import CASES
from lm_bench.recompute import CASE, measure, predicted_mib, recompute_table
from lm_core.config import StepConfig


def test_the_saving_is_that_of_all_blocks_but_one():
    in_vectors = predicted_mib(CASE, "torch", 4) * 2**20 / (4 * CASE.model.d_model * CASE.batch_size * CASE.length)
    assert in_vectors == 11 * 15
    assert predicted_mib(CASE, "mlx", 4) > predicted_mib(CASE, "torch", 4) == 2 * predicted_mib(CASE, "torch", 2)


def test_both_ways_are_measured_and_are_the_same_training():
    pytest.importorskip("lm_mlx")
    result = measure("mlx", CASES["testbed-d"], StepConfig(device="cpu"), rounds=1, steps=1)
    assert result.agreement.worst < 1e-5
    assert result.kept.added > 0 < result.recomputed.added
    assert "testbed-d  mlx" in recompute_table([result])
