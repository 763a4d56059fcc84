"""Dropout masks: a function of (index, key, site) with the right rate and nothing in common between sites and steps."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.reference.dropout import keep_mask, mix
from lm_core.rng import threshold

SIZE = 200_000


def scalar_mix(x: int) -> int:
    """Wellons' lowbias32 in Python's integers."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def unmixed(x: int) -> int:
    """Its inverse: xor-shifts undone, then multiplications by the inverses modulo 2^32."""
    x ^= x >> 16
    x = x * pow(0x846CA68B, -1, 2**32) % 2**32
    x ^= x >> 15 ^ x >> 30
    x = x * pow(0x7FEB352D, -1, 2**32) % 2**32
    return x ^ x >> 16


@given(st.integers(0, 2**32 - 1))
def test_the_mix_is_a_bijection(x: int) -> None:
    mixed = int(mix(np.array([x], dtype=np.uint32))[0])
    assert mixed == scalar_mix(x)
    assert unmixed(mixed) == x


@given(st.integers(0, 2**32 - 1), st.integers(0, 1000), st.integers(0, 3000), st.floats(0, 0.99))
def test_an_element_s_fate_is_the_formula_in_plain_integers(key: int, site: int, index: int, rate: float) -> None:
    site_key = scalar_mix((key + site * 0x9E3779B9) % 2**32)
    kept = scalar_mix((scalar_mix(index) + site_key) % 2**32) >= int(rate * 2**32)
    assert keep_mask((index + 1,), key, site, rate)[index] == kept


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize(("key", "site"), [(0, 0), (0, 1), (1, 0), (2**32 - 1, 37)])
def test_the_rate_is_met(rate: float, key: int, site: int) -> None:
    dropped = 1 - keep_mask((SIZE,), key, site, rate).mean()
    assert abs(dropped - rate) < 4 * np.sqrt(rate * (1 - rate) / SIZE)


def test_nothing_is_dropped_at_rate_zero() -> None:
    assert threshold(0.0) == 0
    assert keep_mask((1000,), 3, 4, 0.0).all()


def test_sites_steps_and_neighbours_drop_independently() -> None:
    rate = 0.3
    masks = [~keep_mask((SIZE,), key, site, rate) for key in (0, 1, 2**31) for site in (0, 1, 2)]
    sigma = np.sqrt(rate**2 * (1 - rate**2) / SIZE)
    for one, other in itertools.combinations(masks, 2):
        assert abs((one & other).mean() - rate**2) < 4.5 * sigma
    for shift in (1, 2, 64, 256):
        assert abs((masks[0][shift:] & masks[0][:-shift]).mean() - rate**2) < 4.5 * sigma


def test_a_mask_is_the_same_each_time_and_does_not_depend_on_the_shape() -> None:
    flat = keep_mask((120,), 5, 6, 0.4)
    np.testing.assert_array_equal(keep_mask((2, 3, 20), 5, 6, 0.4), flat.reshape(2, 3, 20))
    np.testing.assert_array_equal(keep_mask((7,), 5, 6, 0.4), flat[:7])


def test_a_higher_rate_drops_what_a_lower_one_does_and_more() -> None:
    low, high = (keep_mask((SIZE,), 1, 2, rate) for rate in (0.1, 0.2))
    assert not (high & ~low).any()
