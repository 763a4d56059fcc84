"""The proof can fail."""

import math

import pytest

from lm_bench.agreement import Agreement, NotSameModelError, agreement


def test_close_losses_agree():
    assert agreement([4.0, 3.0], [4.0, 3.25], 0.5) == Agreement(2, 4.0, 3.0, 0.25, 0.5)


def test_the_first_step_that_differs_is_named():
    with pytest.raises(NotSameModelError, match=r"step 2: our loss is 3\.000000, the bare loop's 3\.100000"):
        agreement([4.0, 3.0, 2.0], [4.0, 3.1, 2.1], 1e-3)


@pytest.mark.parametrize("pair", [(math.nan, 4.0), (4.0, math.nan), (math.nan, math.nan), (math.inf, 4.0)])
def test_what_is_not_finite_never_agrees(pair):
    with pytest.raises(NotSameModelError):
        agreement([pair[0]], [pair[1]], 1e-3)


def test_sequences_of_different_length_never_agree():
    with pytest.raises(ValueError, match="shorter"):
        agreement([4.0, 3.0], [4.0], 1e-3)
