"""How a run has ended, by the error that it raised."""

import pytest

from lm_bench.study.worker import status_of
from lm_core.config import AdamWConfig, ModelConfig, StepConfig
from lm_core.errors import NonFiniteError, UserError
from lm_core.model.memory import check_memory, training_memory


def raised(work):
    with pytest.raises(Exception) as caught:
        work()
    return caught.value


def too_large():
    model = ModelConfig(vocab_size=50_000, seq_len=1024, d_model=768, n_layers=12, n_heads=12)
    check_memory(training_memory(model, AdamWConfig(), StepConfig(), 32, 1024), 1 << 20, "training")


def filled():
    try:
        raise RuntimeError("CUDA error: out of memory")
    except RuntimeError as error:
        raise UserError("the memory is full: lower --batch") from error


@pytest.mark.parametrize("work", [too_large, filled])
def test_a_run_that_does_not_fit_the_memory_is_out_of_memory(work):
    assert status_of(raised(work)) == "out of memory"


def test_other_ends_are_told_apart():
    assert status_of(NonFiniteError("step 3: loss_nats is nan")) == "diverged"
    assert status_of(UserError("the text is gone")) == "failed"
    assert status_of(ZeroDivisionError()) == "failed"
