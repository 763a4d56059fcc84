"""Problems: functions of (seed, index, split), in splits that share none; solutions that their checkers accept."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm_core.errors import UserError
from rlvr.tasks.arithmetic import Add
from rlvr.tasks.countdown import value_of
from rlvr.tasks.registry import TASKS, mixture
from rlvr.tasks.reward import reward
from rlvr.tasks.task import Problem, Split, Task, split_of
from rlvr.vocabulary import END, decode, encode

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
EACH = [pytest.param(task, id=name) for name, task in TASKS.items()]


def problems(task: Task, split: Split, count: int = 60, seed: int = 1) -> list[Problem]:
    return [task.problem(seed, index, split) for index in range(count)]


@pytest.mark.parametrize("task", EACH)
def test_a_problem_is_a_function_of_seed_index_and_split(task: type[Task]) -> None:
    again = problems(task(1, 3), "train")[::-1]
    assert [(p.prompt, p.solution, p.level) for p in problems(task(1, 3), "train")] == [
        (p.prompt, p.solution, p.level) for p in again[::-1]
    ]
    assert problems(task(3, 3), "train", seed=2)[0].prompt != problems(task(3, 3), "train")[0].prompt


@pytest.mark.parametrize("task", EACH)
def test_the_splits_of_every_level_have_problems_and_share_none(task: type[Task]) -> None:
    for level in range(1, min(task.levels, 4) + 1):
        asked = {split: {p.question for p in problems(task(level, level), split, 20)} for split in SPLITS}
        assert all(asked.values())
        assert sum(map(len, asked.values())) == len(set().union(*asked.values()))


def test_the_splits_have_the_shares_that_they_are_meant_to_have() -> None:
    splits = [split_of(f"{a}+{b}") for a in range(100) for b in range(100)]
    assert [round(splits.count(split) / len(splits), 2) for split in SPLITS] == [0.8, 0.1, 0.1]


@pytest.mark.parametrize("task", EACH)
def test_its_solution_earns_all_and_each_level_is_longer_to_answer(task: type[Task]) -> None:
    lengths = []
    for level in range(1, min(task.levels, 4) + 1):
        of_level = problems(task(level, level), "train", 40)
        assert {p.level for p in of_level} == {level}
        for problem in of_level:
            assert reward(problem, problem.solution + END) == {"correct": 1.0, "format": 1.0, "length": 1.0}
            assert decode(encode(problem.prompt + problem.solution + END)) == problem.prompt + problem.solution + END
        lengths.append(sum(len(p.prompt + p.solution) for p in of_level))
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("task", EACH)
def test_an_answer_that_is_not_ended_or_is_another_one_is_wrong(task: type[Task]) -> None:
    for problem in problems(task(1, 3), "validation", 20):
        assert reward(problem, problem.solution)["correct"] == 0
        assert reward(problem, problem.solution)["format"] == 0
        for wrong in (END, problem.solution[:-1] + END, problem.solution + problem.solution[-1] + END, f"?{END}"):
            assert reward(problem, wrong)["correct"] == 0


@pytest.mark.parametrize(
    ("prompt", "solution"),
    [
        ("copy plum=", "plum"), ("reverse plum=", "mulp"), ("sort 3141=", "1134"), ("add 47+85=", "132"),
        ("addsteps 47+85=", "7+5=12;4+8+1=13;132"), ("addsteps 95+5=", "5+5=10;9+1=10;100"),
        ("chain 3+4*2-5=", "9"), ("chainsteps 3+4*2-5=", "7*2-5;14-5;9"), ("brackets [({}[=", "])]"),
        ("countdown 3,4:12=", "3*4"),
    ],
)  # fmt: skip
def test_solutions_by_hand(prompt: str, solution: str) -> None:
    name, question = prompt.removesuffix("=").split(" ")
    found = TASKS[name]().solve(question)
    assert found == solution or (name == "countdown" and value_of(found) == 12)


def test_a_slip_is_carried_on() -> None:
    """What follows a wrong step stands on it, and the answer is that of the wrong step."""
    slips = iter(["8", "16", "11"])
    assert TASKS["chainsteps"]().solve("3+4*2-5", lambda _: next(slips)) == "8*2-5;16-5;11"
    slips = iter(["2", "12"])
    assert TASKS["addsteps"]().solve("47+85", lambda _: next(slips)) == "7+5=2;4+8=12;122"


@pytest.mark.parametrize("text", ["2+3*4", "(2+3)*4", "8/2/2", "((7))-2-2", "2*(3+4*(1+1))", "9"])
def test_the_parser_of_countdown_agrees_with_python(text: str) -> None:
    assert value_of(text) == eval(text.replace("/", "//"))


@pytest.mark.parametrize(
    "text", ["", "7/2", "7/0", "3+", "(3", "3)", "()", "-3", "3 4", "3**2", "2^3", "(" * 5000, "9" * 5000, "a", "3.5"]
)
def test_what_is_not_an_expression_has_no_value(text: str) -> None:
    assert value_of(text) is None


def test_countdown_takes_any_right_expression_of_the_given_numbers() -> None:
    task = TASKS["countdown"]()
    assert task.is_right("3,4,5:17", "5+(4*3)")
    assert task.is_right("3,4,5:12", "4*3")
    for wrong in ("3*4+5+5-5", "17", "12+5", "3+4", "__import__('os')", "4*3+5;"):
        assert not task.is_right("3,4,5:17", wrong)


class Doubled(Add):
    name, levels = "doubled", 2

    def solve(self, question: str, slip: object = str) -> str:
        return "0"

    def is_right(self, question: str, text: str) -> bool:
        if text == "raise":
            return bool(1 / 0)
        if text == "long":
            sum(range(10_000_000))  # one call of C
        while text == "hang":
            try:
                while True:
                    pass
            except Exception:  # what a task must not be able to hold on by
                pass
        return text == "0"


def test_a_checker_that_raises_or_hangs_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.tasks.guard.SECONDS", 0.02)
    problem = Doubled().problem(0, 0, "train")
    said = f"for the completion 'raise' of '{re.escape(problem.prompt)}': division by zero"
    with pytest.raises(UserError, match=f"^task doubled raised ZeroDivisionError {said}$"):
        reward(problem, f"raise{END}")
    with pytest.raises(UserError, match=r"^task doubled took longer than 0\.02 seconds for the completion 'hang'"):
        reward(problem, f"hang{END}")
    with pytest.raises(UserError, match=r"^task doubled took longer than 0\.02 seconds for the completion 'long'"):
        reward(problem, f"long{END}")
    assert reward(problem, f"0{END}")["correct"] == 1


STOPS_ITSELF = """
import os, signal
from rlvr.tasks import guard
guard.SECONDS = 0.2
with guard.guarded("mine", "a text"):
    os.kill(os.getpid(), signal.SIGSTOP)
    sum(range(100_000))  # in which a signal that came meanwhile is handled
"""


def test_time_in_which_the_program_is_stopped_does_not_count() -> None:
    with subprocess.Popen([sys.executable, "-c", STOPS_ITSELF], stderr=subprocess.PIPE, text=True) as child:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        time.sleep(0.4)
        os.kill(child.pid, signal.SIGCONT)
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors


@pytest.mark.parametrize(
    ("names", "levels", "seq_len", "said"),
    [
        (["chian"], (1, 1), 48, r"^tasks: unknown task 'chian'; did you mean chain\?$"),
        (["x"], (1, 1), 48, r"^tasks: unknown task 'x'; there are copy, .*FILE\.py:CLASS$"),
        ([], (1, 1), 48, "^tasks: name one or more of copy"),
        (["add", "add"], (1, 1), 48, "each once$"),
        (["add"], (1, 9), 48, "^task add has the levels 1 to 8, not 1 to 9"),
        (["add"], (3, 2), 48, "^task add has the levels 1 to 8, not 3 to 2"),
        (["addsteps"], (1, 8), 48, "with its end, and the model reads 48: lower"),
        (["missing.py:Mine"], (1, 1), 48, r"^tasks: missing\.py cannot be loaded: FileNotFoundError"),
        (["mine:Mine"], (1, 1), 48, "^tasks: mine is not a Python file$"),
    ],
)
def test_a_mistake_is_one_line(names: list[str], levels: tuple[int, int], seq_len: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        mixture(names, *levels, seq_len)


def test_tasks_take_turns() -> None:
    mixed = mixture(["copy", "add", "sort"], 1, 2, 48)
    assert [mixed.problem(0, i, "test").task.name for i in range(4)] == ["copy", "add", "sort", "copy"]


def test_the_task_of_the_guide_is_one_class_of_twenty_lines_that_works(tmp_path: Path) -> None:
    guide = Path(__file__).resolve().parents[3] / "docs" / "rlvr.md"
    [source] = re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)
    assert len(source.splitlines()) <= 22
    (tmp_path / "own_tasks.py").write_text(source)
    mixed = mixture([f"{tmp_path}/own_tasks.py:Remainder"], 1, 4, 48)
    problem = mixed.problem(0, 0, "test")
    number, divisor = map(int, problem.question.split("/"))
    assert problem.prompt == f"remainder {number}/{divisor}="
    assert reward(problem, f"{number % divisor}{END}")["correct"] == 1
    assert reward(problem, f"{number % divisor + 1}{END}")["correct"] == 0
