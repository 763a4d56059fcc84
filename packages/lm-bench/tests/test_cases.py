import numpy as np
import pytest

from lm_bench.cases import CASES, random_walk
from lm_bench.peers import check_plain


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_batches_have_the_case_s_shape_and_never_change(case):
    batches, again = case.batches(3), case.batches(2)
    assert batches[0].inputs.shape == (case.batch_size, case.model.seq_len)
    assert np.array_equal(batches[1].targets, again[1].targets)
    assert not np.array_equal(batches[0].inputs, batches[1].inputs)
    assert max(batch.inputs.max() for batch in batches) < case.model.vocab_size


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_bare_loops_can_run_every_case(case):
    check_plain(case.model)


def test_the_data_can_be_learned():
    ids = random_walk(65).astype(int)
    assert set(np.diff(ids) % 65) == {1, 2, 3}
