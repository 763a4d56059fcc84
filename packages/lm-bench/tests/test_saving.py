from dataclasses import replace

import pytest

from lm_bench.saving import CASE, measure, saving_table
from lm_core.config import ModelConfig, StepConfig
from lm_core.model.parameters import parameter_table


def test_the_case_holds_500_megabytes():
    count = sum(parameter.size for parameter in parameter_table(CASE.model).values())
    assert 480e6 < 12 * count < 530e6


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_save_is_measured_alone_and_among_steps(backend):
    pytest.importorskip(f"lm_{backend}")
    tiny = replace(CASE, model=ModelConfig(vocab_size=11, seq_len=8, d_model=16, n_layers=1, n_heads=2))
    result = measure(backend, tiny, StepConfig(device="cpu"), rounds=1, steps=4)
    assert min(result.first_ms, result.later_ms.median, result.copies_ms.median, result.writer_s.median) > 0
    assert result.plain_s.median + result.extra_ms.median / 1e3 == pytest.approx(result.saving_s.median)
    assert backend in saving_table([result])
