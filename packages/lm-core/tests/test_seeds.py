"""Several seeds in one command: which runs are started, resumed or left, and what contradicts it."""

import signal
from pathlib import Path

import pytest

from lm_core.errors import NonFiniteError, UserError
from lm_core.run.interrupts import Interrupts
from lm_core.run.seeds import for_each_seed

ARGV = ["--steps", "3", "--seeds", "1", "2", "3", "--save_dir"]


class Runs:
    """Stands for an app: notes what it is asked, and begins a run in each folder."""

    def __init__(self, diverges: str = "", stopped: str = "") -> None:
        self.diverges, self.stopped = diverges, stopped
        self.asked: list[list[str]] = []

    def __call__(self, argv: list[str]) -> int:
        self.asked.append(argv)
        folder = Path(argv[argv.index("--save_dir") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text("")
        if folder.name == self.diverges:
            raise NonFiniteError("step 7: loss is nan")
        with Interrupts() as interrupts:
            if folder.name == self.stopped:
                signal.raise_signal(signal.SIGTERM)
            assert interrupts.requested == (folder.name == self.stopped)
        return 0


def expected(base: str) -> list[list[str]]:
    return [["--steps", "3", "--seed", str(n), "--save_dir", f"{base}/seed-{n}"] for n in (1, 2, 3)]


def test_a_command_without_seeds_is_one_run() -> None:
    assert for_each_seed(["--seed", "3"], lambda argv: len(argv)) == 2


def test_each_seed_gets_a_folder_and_the_same_command_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, stopped = str(tmp_path), Runs(stopped="seed-2")
    assert for_each_seed([*ARGV, base], stopped) == 0
    assert stopped.asked == expected(base)[:2], "the third has not begun"
    again = Runs()
    assert "compare" not in capsys.readouterr().err
    assert for_each_seed([*ARGV, base], again, next_steps=lambda folder: [f"compare: {folder}"]) == 0
    assert capsys.readouterr().err.endswith(f"compare: {base}\n")
    first, second, third = expected(base)
    assert again.asked == [[*first, "--resume"], [*second, "--resume"], third]
    by_itself = Runs()
    assert for_each_seed([*ARGV, base], by_itself, resume=False) == 0
    assert by_itself.asked == expected(base)


def test_the_words_may_be_written_in_any_way(tmp_path: Path) -> None:
    runs = Runs()
    for_each_seed(["--save-dir", "x", "--seeds=7", "--verbose", f"--save_dir={tmp_path}"], runs)
    assert runs.asked == [["--verbose", "--seed", "7", "--save_dir", f"{tmp_path}/seed-7"]]


def test_a_run_that_diverges_holds_up_no_other_and_is_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs(diverges="seed-1")
    assert for_each_seed([*ARGV, str(tmp_path)], runs) == 1
    assert len(runs.asked) == 3
    assert "seed 1: step 7: loss is nan" in capsys.readouterr().err


def test_a_mistake_in_a_run_ends_the_series(tmp_path: Path) -> None:
    asked = []

    def refuse(argv: list[str]) -> int:
        asked.append(argv)
        return 2

    assert for_each_seed([*ARGV, str(tmp_path)], refuse) == 2
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--seeds", "1"], "--seeds: give --save_dir"),
        (["--seeds", "1", "--save_dir", ""], "--seeds: give --save_dir"),
        (["--save_dir", "s", "--seeds", "1", "1"], "--seeds 1 1: give each seed once"),
        (["--save_dir", "s", "--seeds"], "--seeds : give whole numbers"),
        (["--save_dir", "s", "--seeds", "one"], "--seeds one: give whole numbers"),
        (["--save_dir", "s", "--seeds", "1", "-2"], "--seeds 1 -2: give whole numbers"),
        (["--save_dir", "s", "--seeds", "9" * 5000], "give whole numbers"),
        (["--together", "--seed", "3"], "--together: of which seeds"),
        (["--save_dir", "s", "--seeds", "1", "--seed=3"], "--seeds and --seed contradict each other"),
        (["--save_dir", "s", "--seeds", "1", "--resume"], "--seeds and --resume contradict each other"),
    ],
)
def test_what_contradicts_is_one_line(argv: list[str], said: str) -> None:
    runs = Runs()
    with pytest.raises(UserError, match=said):
        for_each_seed(argv, runs)
    assert runs.asked == []
