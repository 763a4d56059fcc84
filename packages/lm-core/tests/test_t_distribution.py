"""Student's t distribution is scipy's; its quantiles are those of printed tables."""

import pytest

from lm_core.t_distribution import quantile, tail


@pytest.mark.parametrize("df", [1, 2, 9, 40, 5000])
def test_tails_and_quantiles_are_scipys(df: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for t in (-8, -0.5, 0, 1, 2.2, 6):
        assert tail(t, df) == pytest.approx(stats.t.sf(t, df), rel=1e-9)
        for shift in (0.5, 2, 5):
            assert tail(t, df, shift) == pytest.approx(stats.nct.sf(t, df, shift), rel=1e-7)
    for share in (0.01, 0.5, 0.9, 0.975, 0.99999):
        assert quantile(share, df) == pytest.approx(stats.t.ppf(share, df), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("df", "printed"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_quantiles_are_those_of_the_tables(df: int, printed: float) -> None:
    assert quantile(0.975, df) == pytest.approx(printed, abs=5e-4)
