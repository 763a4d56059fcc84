"""Interleaving and its statistics, on a clock that only the blocks move."""

from lm_bench.statistics import Quartiles
from lm_bench.timing import interleave


class Machine:
    """Blocks that take a known time, ten times as long in the calls named in `slow`."""

    def __init__(self, slow=()):
        self.now, self.slow, self.order = 0.0, slow, []

    def block(self, name, seconds):
        def run():
            self.now += seconds * (10 if len(self.order) in self.slow else 1)
            self.order.append(name)

        return run


def test_the_order_flips_every_round():
    machine = Machine()
    interleave(machine.block("ours", 1), machine.block("bare", 1), rounds=3, warmup=1, clock=lambda: machine.now)
    assert machine.order == ["ours", "bare", "bare", "ours", "ours", "bare", "bare", "ours"]


def test_each_side_is_charged_its_own_time():
    machine = Machine()
    rounds = interleave(
        machine.block("ours", 3), machine.block("bare", 2), rounds=4, warmup=0, clock=lambda: machine.now
    )
    assert rounds.ours == [3] * 4
    assert rounds.bare == [2] * 4
    assert rounds.ratios == [1.5] * 4


def test_warm_up_is_run_but_not_counted():
    machine = Machine()
    first = iter([100.0, 100.0])

    def ours():
        machine.now += next(first, 1.0)

    rounds = interleave(ours, machine.block("bare", 1), rounds=2, warmup=2, clock=lambda: machine.now)
    assert rounds.ours == [1.0, 1.0]


def test_what_slows_the_machine_down_cancels_in_the_ratio():
    machine = Machine(slow=range(4, 10))
    rounds = interleave(
        machine.block("ours", 3), machine.block("bare", 2), rounds=6, warmup=0, clock=lambda: machine.now
    )
    assert rounds.ours == [3, 3, 30, 30, 30, 3]
    assert rounds.ratios == [1.5] * 6


def test_one_disturbed_block_does_not_move_the_median():
    machine = Machine(slow=[4])
    rounds = interleave(
        machine.block("ours", 3), machine.block("bare", 2), rounds=5, warmup=0, clock=lambda: machine.now
    )
    assert max(rounds.ratios) == 15
    assert Quartiles.of(rounds.ratios) == Quartiles(1.5, 1.5, 1.5)


def test_quartiles():
    assert Quartiles.of([5, 1, 3, 2, 4]) == Quartiles(2, 3, 4)
    assert Quartiles.of([7.0]) == Quartiles(7, 7, 7)
