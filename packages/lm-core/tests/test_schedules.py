"""The learning rate at the boundaries of each schedule, and the text form of a piecewise one."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.config import ScheduleConfig, parse_piecewise
from lm_core.errors import UserError
from lm_core.schedules import extended, learning_rate, piecewise


def rates(config: ScheduleConfig, *steps: int) -> list[float]:
    return [learning_rate(config, step) for step in steps]


def test_constant_is_the_peak_after_a_straight_warmup_whose_first_step_already_moves() -> None:
    assert rates(ScheduleConfig(peak_lr=0.5), 1, 2, 10**9) == [0.5, 0.5, 0.5]
    assert rates(ScheduleConfig(peak_lr=0.5, warmup_steps=4), 1, 2, 3, 4, 5) == [0.125, 0.25, 0.375, 0.5, 0.5]


def test_cosine_peaks_at_the_end_of_the_warmup_is_half_way_in_the_middle_and_stays_on_its_floor() -> None:
    config = ScheduleConfig(kind="cosine", peak_lr=2.0, warmup_steps=10, max_steps=30, min_factor=0.2)
    expected = [0.2, 2.0, 1.2, 0.4, 0.4, 0.4]
    assert rates(config, 1, 10, 20, 30, 31, 10**6) == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 1000), st.integers(1, 10_000), st.floats(0, 1), st.integers(1, 12_000))
def test_cosine_with_a_floor_follows_its_formula(W: int, length: int, m: float, t: int) -> None:
    T = W + length
    config = ScheduleConfig(kind="cosine", peak_lr=3e-4, warmup_steps=W, max_steps=T, min_factor=m)
    decayed = m + 0.5 * (1 - m) * (1 + math.cos(math.pi * (min(t, T) - W) / (T - W)))
    expected = t / W if t <= W else decayed
    assert learning_rate(config, t) == pytest.approx(3e-4 * expected, rel=1e-9, abs=1e-18)


def test_hold_then_decay_holds_then_falls_in_a_straight_line_to_its_floor() -> None:
    config = ScheduleConfig(kind="hold_then_decay", peak_lr=1.0, max_steps=100, decay_steps=40, min_factor=0.1)
    assert rates(config, 1, 60, 70, 80, 100, 101) == pytest.approx([1, 1, 0.775, 0.55, 0.1, 0.1])


def test_hold_then_decay_without_decay_steps_holds_for_ever() -> None:
    config = ScheduleConfig(kind="hold_then_decay", peak_lr=1.0, max_steps=100, warmup_steps=2)
    assert rates(config, 1, 2, 99, 100, 500) == [0.5, 1, 1, 1, 1]


@given(st.sampled_from(["constant", "cosine", "hold_then_decay", "hold_then_cosine"]), st.integers(1, 400), st.data())
def test_after_the_warmup_no_schedule_rises_and_none_leaves_the_range_of_floor_to_peak(
    kind: str, max_steps: int, data: st.DataObject
) -> None:
    config = ScheduleConfig.parse(
        {
            "kind": kind,
            "peak_lr": 1.0,
            "max_steps": max_steps,
            "warmup_steps": data.draw(st.integers(0, max_steps - 1)),
            "decay_steps": data.draw(st.integers(0, max_steps)),
            "min_factor": data.draw(st.floats(0, 1)),
        }
    )
    after = rates(config, *range(config.warmup_steps + 1, max_steps + 3))
    assert all(later <= earlier + 1e-15 for earlier, later in itertools.pairwise(after))
    assert all(config.min_factor - 1e-12 <= rate <= 1.0 for rate in after)


@given(st.dictionaries(st.integers(0, 50), st.floats(1e-6, 1), min_size=1), st.integers(1, 60))
def test_piecewise_takes_the_last_point_at_or_before_the_step(by_step: dict[int, float], step: int) -> None:
    points = tuple(sorted(by_step.items()))
    before = [start for start in by_step if start <= step]
    assert piecewise(step, points) == by_step[max(before) if before else min(by_step)]


def test_piecewise_rates_change_on_the_named_step_and_warm_up_like_any_other() -> None:
    config = ScheduleConfig(kind="piecewise", points=parse_piecewise("0:4e-4, 100:2e-4,200:1e-4"), warmup_steps=2)
    assert rates(config, 1, 2, 99, 100, 199, 200, 10**6) == [2e-4, 4e-4, 4e-4, 2e-4, 2e-4, 1e-4, 1e-4]


def test_points_may_be_given_as_text() -> None:
    config = ScheduleConfig.parse({"kind": "piecewise", "points": "0:3e-4,20000:1.5e-4"})
    assert config.points == ((0, 3e-4), (20000, 1.5e-4))


@given(st.dictionaries(st.integers(0, 10**9), st.floats(1e-300, 1e300), min_size=1, max_size=5))
def test_piecewise_text_is_read_back_exactly(by_step: dict[int, float]) -> None:
    points = tuple(sorted(by_step.items()))
    assert parse_piecewise(",".join(f"{step}:{rate!r}" for step, rate in points)) == points


@given(st.integers(0, 300), st.integers(0, 500), st.integers(0, 500), st.floats(0, 1), st.integers(1, 1500))
def test_hold_then_cosine_follows_its_formula(W: int, hold: int, D: int, m: float, t: int) -> None:
    T = hold + D + 1
    config = ScheduleConfig(
        kind="hold_then_cosine", peak_lr=3e-4, warmup_steps=W, max_steps=T, decay_steps=D, min_factor=m
    )
    progress = min(max(t - (T - D), 0), D) / D if D else 0.0
    expected = min(1.0, t / W if W else 1.0) * (m + 0.5 * (1 - m) * (1 + math.cos(math.pi * progress)))
    assert learning_rate(config, t) == pytest.approx(3e-4 * expected, rel=1e-9, abs=1e-18)


def test_hold_then_cosine_warms_up_holds_is_half_way_in_the_middle_of_its_decay_and_stays_on_its_floor() -> None:
    values = {"kind": "hold_then_cosine", "peak_lr": 1.0, "warmup_steps": 4, "max_steps": 100, "decay_steps": 40}
    config = ScheduleConfig.parse({**values, "min_factor": 0.1})
    assert rates(config, 1, 4, 60, 80, 100, 101) == pytest.approx([0.25, 1, 1, 0.55, 0.1, 0.1], rel=1e-12)


# A run that is given more steps

COSINE = ScheduleConfig(kind="cosine", peak_lr=1.0, warmup_steps=10, max_steps=100, min_factor=0.1)


def test_an_extended_schedule_is_stretched_stays_on_its_floor_or_begins_again() -> None:
    stretched, floor, again = (extended(COSINE, how, 100, 300) for how in ("stretch", "floor", "warmup"))
    assert stretched == COSINE.model_copy(update={"max_steps": 300})
    assert rates(floor, 100, 101, 300) == pytest.approx([0.1, 0.1, 0.1])
    assert rates(again, 101, 105, 110, 205, 300) == pytest.approx([0.1, 0.5, 1, 0.55, 0.1])


@given(st.sampled_from(["constant", "cosine", "hold_then_decay", "hold_then_cosine"]), st.integers(1, 500))
def test_a_schedule_that_begins_again_is_that_of_a_new_run_of_the_steps_left(kind: str, step: int) -> None:
    values = {"kind": kind, "warmup_steps": 5, "decay_steps": 20, "min_factor": 0.2}
    again = extended(ScheduleConfig.parse({**values, "max_steps": 50}), "warmup", 50, 250)
    new = ScheduleConfig.parse({**values, "max_steps": 200})
    assert learning_rate(again, 50 + step) == learning_rate(new, step)


@pytest.mark.parametrize(
    ("changes", "how", "said"),
    [
        ({"min_factor": 0.0}, "floor", "the decay ends at a rate of 0"),
        ({"warmup_steps": 0}, "warmup", "give warmup_steps"),
        (
            {"warmup_steps": 50}, "warmup",
            "no room to decay before max_steps 120, counted from start_step 100: warm up for fewer steps, or train for",
        ),
        (
            {"kind": "hold_then_cosine", "decay_steps": 50}, "warmup",
            "decay_steps 50 is more than max_steps 120 less start_step 100: decay for fewer steps, or train for more",
        ),
    ],
)  # fmt: skip
def test_a_schedule_that_cannot_go_on_so_says_why(changes: dict[str, object], how: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        extended(COSINE.model_copy(update=changes), how, 100, 120)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "''"),
        ("0:3e-4,", "''"),
        ("0:3e-4,,5:1e-4", "''"),
        ("3e-4", "'3e-4'"),
        ("0:", "'0:'"),
        (":3e-4", "':3e-4'"),
        ("0:3e-4,x:1", "'x:1'"),
        ("0:3e-4,5:y", "'5:y'"),
        ("0:3e-4,1.5:1", "'1.5:1'"),
        ("-1:3e-4", "'-1:3e-4'"),
        ("0:-3e-4", "'0:-3e-4'"),
        ("0:0", "'0:0'"),
        ("0:nan", "'0:nan'"),
        ("0:inf", "'0:inf'"),
        ("0:1:2", "'0:1:2'"),
        ("5:1,5:2", "step 5 comes after step 5"),
        ("0:1,20:2,10:3", "step 10 comes after step 20"),
    ],
)
def test_a_malformed_piecewise_text_is_refused_naming_the_part(text: str, part: str) -> None:
    for read in (parse_piecewise, lambda t: ScheduleConfig.parse({"kind": "piecewise", "points": t})):
        with pytest.raises(UserError) as caught:
            read(text)
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "points", [[[9, 1e-4], [0, 3e-4]], [[0, 1e-4], [0, 3e-4]], [[0, -1e-4]], [[-1, 1e-4]], [[0, 0.0]]]
)
def test_points_given_as_a_list_are_held_to_the_same_rules_as_text(points: list[list[float]]) -> None:
    with pytest.raises(UserError):
        ScheduleConfig.parse({"kind": "piecewise", "points": points})


def test_a_decay_longer_than_the_run_is_refused_since_the_peak_would_never_be_reached() -> None:
    with pytest.raises(UserError, match="decay_steps"):
        ScheduleConfig.parse({"kind": "hold_then_decay", "max_steps": 10, "decay_steps": 20})


@given(st.floats(0, 0.9999), st.floats(0, 0.9999), st.integers(1, 5000))
def test_correction_warmup_is_adam_whose_second_moment_is_corrected_by_another_beta2(
    used: float, own: float, step: int
) -> None:
    schedule = ScheduleConfig(peak_lr=1e-3, correction_warmup=(used, own))
    mean, square = 0.3, 0.2  # of the gradient, after `step` steps, not corrected
    as_corrected_by_used = 1e-3 * mean / math.sqrt(square / (1 - used**step))
    adam = learning_rate(schedule, step) * mean / math.sqrt(square / (1 - own**step))
    assert adam == pytest.approx(as_corrected_by_used, rel=1e-12)


def test_correction_warmup_of_kbeta_is_the_one_that_was_published() -> None:
    schedule = ScheduleConfig(peak_lr=1.0, correction_warmup=(0.999, 0.94))
    assert [round(learning_rate(schedule, t), 2) for t in (1, 50, 250, 1000, 2000)] == [0.13, 0.23, 0.47, 0.80, 0.93]
    both = ScheduleConfig(peak_lr=1.0, warmup_steps=10, correction_warmup=(0.999, 0.94))
    assert learning_rate(both, 5) == pytest.approx(0.5 * learning_rate(schedule, 5))
    with pytest.raises(UserError, match="correction_warmup"):
        ScheduleConfig.parse({"correction_warmup": [1.0, 0.95]}, "schedule")
