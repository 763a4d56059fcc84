"""Learning-rate schedules: pure functions of the step, which is counted from 1.

Every function gives a factor of the peak rate, but `piecewise`, which gives the rate itself. `learning_rate` picks the
one that a `ScheduleConfig` names and multiplies the warm-ups in.

A resumed run that is given more steps may `extend` its schedule in one of three ways.

Sources: cosine, Loshchilov and Hutter 2017 (SGDR, equation 5) with a floor; hold then decay, Hu et al. 2024 ("WSD"), in
a straight line or along a cosine; warming up again, Ibrahim et al. 2024 (arXiv 2403.08763, section 4).
"""

import math
from typing import Literal

from lm_core.config import DECAYING, Points, ScheduleConfig
from lm_core.errors import UserError

Extension = Literal["stretch", "floor", "warmup"]
"""How to extend a schedule when a run is given more steps."""


def linear_warmup(step: int, warmup_steps: int) -> float:
    """t / W up to W, then 1. The first step already moves: its factor is 1 / W."""
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0


def cosine(step: int, warmup_steps: int, max_steps: int, min_factor: float) -> float:
    """m + 0.5 (1 - m) (1 + cos(pi (t - W) / (T - W))): 1 until W, m from T on."""
    if step <= warmup_steps:
        return 1.0
    progress = min(1.0, (step - warmup_steps) / (max_steps - warmup_steps))
    return min_factor + 0.5 * (1 - min_factor) * (1 + math.cos(math.pi * progress))


def hold_then_decay(step: int, max_steps: int, decay_steps: int, min_factor: float) -> float:
    """1 until T - decay_steps, then a straight line down to m at T."""
    if not decay_steps:
        return 1.0
    progress = min(1.0, max(0.0, (step - (max_steps - decay_steps)) / decay_steps))
    return 1.0 - (1.0 - min_factor) * progress


def hold_then_cosine(step: int, max_steps: int, decay_steps: int, min_factor: float) -> float:
    """1 until T - D, then m + 0.5 (1 - m) (1 + cos(pi (t - (T - D)) / D)) down to m at T, D being decay_steps."""
    return cosine(step, max_steps - decay_steps, max_steps, min_factor) if decay_steps else 1.0


def piecewise(step: int, points: Points) -> float:
    """The rate of the last (step, rate) point at or before `step`; before the first point, the first rate."""
    rate = points[0][1]
    for start, value in points:
        if start > step:
            break
        rate = value
    return rate


def correction_warmup(step: int, used: float, own: float) -> float:
    """sqrt((1 - used^t) / (1 - own^t)): what Adam's rate is times when its second moment is corrected by another beta2.

    K-beta with beta2max correction divides by 1 - 0.999^t while its beta2 is near 0.94: a factor of 0.13 at t = 1.
    """
    return math.sqrt((1 - used**step) / (1 - own**step))


def learning_rate(config: ScheduleConfig, step: int) -> float:
    """The learning rate at `step` (counted from 1)."""
    counted, end = max(0, step - config.start_step), config.max_steps - config.start_step
    warmup = linear_warmup(counted, config.warmup_steps)
    if config.correction_warmup and step:
        warmup *= correction_warmup(step, *config.correction_warmup)
    match config.kind:
        case "constant":
            return config.peak_lr * warmup
        case "cosine":
            return config.peak_lr * warmup * cosine(counted, config.warmup_steps, end, config.min_factor)
        case "hold_then_decay":
            return config.peak_lr * warmup * hold_then_decay(counted, end, config.decay_steps, config.min_factor)
        case "hold_then_cosine":
            return config.peak_lr * warmup * hold_then_cosine(counted, end, config.decay_steps, config.min_factor)
        case "piecewise":
            return warmup * piecewise(step, config.points)


def extended(config: ScheduleConfig, how: Extension, step: int, max_steps: int) -> ScheduleConfig:
    """The schedule of a run that has taken `step` steps by `config` and is to take `max_steps`.

    Args:
        config: the schedule so far.
        how: `stretch` moves the end of the decay to the new end, so the rate may jump; `floor` leaves it, so the rate
            stays where the decay ends; `warmup` begins the schedule again after `step`: a warm-up to the peak, and then
            the decay.
        step: steps taken.
        max_steps: the new end of the run.

    Raises:
        UserError: when the schedule cannot be extended so, saying why.
    """
    if how == "floor":
        if config.kind in DECAYING and config.min_factor == 0:
            raise UserError("schedule: the decay ends at a rate of 0, at which nothing is learned: stretch, or warm up")
        return config
    start = {"start_step": step} if how == "warmup" else {}
    if how == "warmup" and not config.warmup_steps:
        raise UserError("schedule: there is no warm-up to start again with: give warmup_steps")
    return ScheduleConfig.parse({**config.model_dump(mode="json"), **start, "max_steps": max_steps}, "schedule")
