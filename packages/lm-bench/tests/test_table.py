from lm_bench.agreement import Agreement
from lm_bench.memory import Memory
from lm_bench.statistics import Quartiles
from lm_bench.step import StepResult, StepTimes
from lm_bench.table import aligned, proof, step_table

TIMES = StepTimes(
    ours_ms=Quartiles(20, 21, 22),
    bare_ms=Quartiles(19, 20, 21),
    ratio=Quartiles(1.01, 1.05, 1.07),
    agreement=Agreement(170, 4.2, 1.5, 5e-7, 1e-3),
)
MEMORY = {"ours": Memory(imported=500, peak=600), "bare": Memory(imported=400, peak=480)}


def test_columns_line_up():
    assert aligned([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"


def test_times_and_memory_stand_in_one_row():
    header, row = step_table([StepResult("testbed-d", "torch", TIMES, MEMORY)]).splitlines()
    assert "peak MiB ours/bare  ratio  above import MiB  ratio" in header
    assert " ".join(row.split()) == "testbed-d torch 21.00 20.00 1.050 (1.010-1.070) 600/480 1.25 100/80 1.25"
    assert header.index("peak MiB") == row.index("600/480")


def test_without_memory_its_columns_are_gone():
    assert "MiB" not in step_table([StepResult("testbed-d", "torch", TIMES, None)])


def test_the_output_says_that_the_losses_agree():
    line = proof(StepResult("testbed-d", "mlx", TIMES, None))
    assert line == (
        "same model: testbed-d on mlx: the losses of both agree within 5.0e-07 nats (limit 0.001) over 170 steps,"
        " 4.200 -> 1.500"
    )
