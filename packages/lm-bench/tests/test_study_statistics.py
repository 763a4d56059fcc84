"""The statistics of studies are scipy's, and do by simulation what their names promise."""

import math

import numpy as np
import pytest

from lm_bench.study.config import StudyConfig
from lm_bench.study.estimate import Estimate, bca_interval, resampled_means
from lm_bench.study.median import Median
from lm_bench.study.paired import holm, paired
from lm_bench.study.power import power, power_line, seeds_needed, smallest_effect

from .study_files import STUDY


@pytest.fixture(scope="module")
def stats():
    return pytest.importorskip("scipy.stats")


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def coverage(intervals, truth):
    return np.mean([low <= truth <= high for low, high in intervals])


@pytest.mark.parametrize("n", [2, 3, 10, 37])
def test_mean_deviation_interval_and_p_are_scipys(stats, draw, n):
    sample = draw.normal(0.4, 1.3, n)
    found, test = paired(sample), stats.ttest_1samp(sample, 0)
    assert found.difference.mean == pytest.approx(sample.mean())
    assert found.difference.deviation == pytest.approx(stats.tstd(sample))
    assert found.difference.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.t_p == pytest.approx(test.pvalue)
    assert found.effect == pytest.approx(sample.mean() / stats.tstd(sample))


@pytest.mark.parametrize("n", [3, 5, 10, 30])
def test_the_bootstrap_interval_of_given_resamples_is_scipys(stats, draw, n):
    sample = draw.lognormal(0, 1, n)
    means = resampled_means(sample)
    before = stats.bootstrap((sample,), np.mean, n_resamples=2, method="percentile")
    before.bootstrap_distribution = means
    expected = stats.bootstrap((sample,), np.mean, n_resamples=0, method="BCa", bootstrap_result=before)
    assert bca_interval(sample, means) == pytest.approx(tuple(expected.confidence_interval), rel=1e-6)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_sign_flips_are_scipys_permutations(stats, draw, n):
    for sample in (draw.normal(0.5, 1, n), np.arange(n) - 1.0, np.full(n, 0.1)):  # with ties, and sums that round
        expected = stats.permutation_test(
            (sample,), np.mean, permutation_type="samples", vectorized=False, n_resamples=10_000
        )
        assert paired(sample).flips_p == pytest.approx(expected.pvalue)


def test_forty_pairs_are_counted_exactly(stats, draw):
    sample = draw.integers(-3, 5, 40).astype(float)
    size, counts = np.abs(sample).astype(int), np.array([1.0])
    for step in size:  # the distribution of the sum, by convolution
        counts = np.convolve(counts, [1, *[0] * (2 * step - 1), 1] if step else [2])
    sums = np.arange(-size.sum(), size.sum() + 1, 1)
    expected = counts[np.abs(sums[:: 1 if len(sums) == len(counts) else 2]) >= abs(sample.sum())].sum() / 2**40
    assert paired(sample).flips_p == pytest.approx(expected)
    assert paired([*sample, 1.0]).flips_p is None


def test_holms_correction():
    # The example of Holm's paper, by hand: 0.01 x 4, 0.005 x 5 first, never falling.
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_power_is_scipys_noncentral_t(stats):
    for effect, n in ((0.5, 10), (1.2, 10), (0.3, 80)):
        bound = stats.t.ppf(1 - 0.05 / 2, n - 1)
        expected = stats.nct.sf(bound, n - 1, effect * math.sqrt(n)) + stats.nct.cdf(-bound, n - 1, effect * n**0.5)
        assert power(effect, n) == pytest.approx(expected, rel=1e-6)


def test_seeds_and_smallest_effect_are_the_edges_of_the_power():
    for comparisons in (1, 5):
        n = seeds_needed(0.8, comparisons)
        assert power(0.8, n, comparisons) >= 0.8 > power(0.8, n - 1, comparisons)
        assert power(smallest_effect(n, comparisons), n, comparisons) == pytest.approx(0.8)
    assert seeds_needed(1e-6) is None
    assert smallest_effect(1) is None


def test_one_number_has_no_interval():
    found = paired([0.5])
    assert (found.difference.mean, found.difference.interval, found.t_p, found.effect) == (0.5, None, None, None)


def test_equal_numbers_have_an_interval_without_width():
    assert Estimate.of([2.0] * 4).interval == (2.0, 2.0)
    assert Estimate.of([2.0] * 4).bootstrap == (2.0, 2.0)
    assert paired([0.0] * 4).t_p == paired([0.0] * 4).flips_p == 1.0
    assert (paired([0.1] * 4).t_p, paired([0.1] * 4).effect) == (0.0, None)


def test_a_median_counts_what_is_censored_and_is_infinite_with_half_of_it():
    values = [5.0, 3.0, 4.0, 2.0, 1.0, 6.0, 7.0, 8.0, math.inf, math.inf]
    assert Median.of(values) == Median(10, 5.5, (2.0, math.inf))
    assert Median.of([1.0, math.inf]).value == math.inf
    assert Median.of(values[:5]).interval is None
    assert Median.of(values[:6]).interval == (1.0, 6.0)


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.slow)])
class TestSimulation:
    """Frequencies over `count` simulated studies, within 4 standard errors of what is promised."""

    def test_coverage_of_the_intervals(self, draw, count):
        samples = draw.normal(1.0, 2.0, (count, 10))
        estimates = [Estimate.of(sample) for sample in samples]
        error = 4 * math.sqrt(0.95 * 0.05 / count)
        assert coverage([e.interval for e in estimates], 1.0) == pytest.approx(0.95, abs=error)
        # BCa intervals are too short at ten numbers: 0.91 of normal ones, by 20,000 samples.
        assert coverage([e.bootstrap for e in estimates], 1.0) == pytest.approx(0.91, abs=error + 0.02)
        medians = [Median.of(sample).interval for sample in draw.exponential(1.0, (count, 10))]
        assert coverage(medians, math.log(2)) == pytest.approx(1 - 22 / 1024, abs=error)

    def test_false_alarms_without_an_effect(self, draw, count):
        """Five arms and a baseline, all alike: any alarm is false, however the runs are distributed."""
        error = 4 * math.sqrt(0.95 * 0.05 / count)
        alarms = {"t": 0, "flips": 0, "uncorrected": 0}
        for _ in range(count):
            runs = draw.normal(0, 1, (6, 8)) + draw.normal(0, 3, 8)  # what the seeds have in common
            found = [paired(arm - runs[0]) for arm in runs[1:]]
            alarms["t"] += min(holm([f.t_p for f in found])) < 0.05
            alarms["flips"] += min(holm([f.flips_p for f in found])) < 0.05
            alarms["uncorrected"] += min(f.t_p for f in found) < 0.05
        assert alarms["t"] / count <= 0.05 + error
        assert alarms["flips"] / count <= 0.05 + error
        assert alarms["uncorrected"] / count > 0.05 + error, "without a correction there are more"

    def test_power_is_as_planned(self, draw, count):
        n = seeds_needed(1.0)
        seen = np.mean([paired(sample).t_p < 0.05 for sample in draw.normal(1.0, 1.0, (count, n))])
        assert seen == pytest.approx(power(1.0, n), abs=4 * math.sqrt(0.16 / count))
        missed = np.mean([paired(sample).t_p < 0.05 for sample in draw.normal(0.5, 1.0, (count, n))])
        assert missed == pytest.approx(power(0.5, n), abs=4 * math.sqrt(0.25 / count))


def test_the_plan_says_where_sign_flips_can_show_nothing():
    """Their smallest p, of the largest effect there is, corrected as it will be."""
    few, many = (StudyConfig.parse({**STUDY, "seeds": n, "budgets": [4, 8]}) for n in (6, 7))
    for n, said in ((6, True), (7, False)):
        smallest = paired([1.0] * n).flips_p
        assert (holm([smallest, 1.0])[0] > 0.05) == said
    assert "the p of the sign flips is 0.062 at best, so they show nothing" in power_line(few)
    assert "flips" not in power_line(many)
