"""Several seeds in one command: which runs are started, resumed or left, and what contradicts it."""

from pathlib import Path

import pytest

from lm_core.errors import NonFiniteError, UserError
from lm_core.run.seeds import resume_words, run_seeds

ARGV = ["--steps", "3", "--seeds", "1", "2", "3", "--save_dir", "s"]


class Runs:
    """Stands for an app: notes what it is asked, and ends as it is told."""

    def __init__(self, **endings: object) -> None:
        self.endings = endings
        self.asked: list[list[str]] = []

    def __call__(self, argv: list[str], folder: Path) -> bool:
        self.asked.append([*argv, *resume_words(folder)])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text("")
        ending = self.endings.get(folder.name.replace("-", ""), True)
        if isinstance(ending, Exception):
            raise ending
        return bool(ending)


def test_each_seed_gets_a_folder_and_the_same_command_resumes(tmp_path: Path) -> None:
    base, stopped = str(tmp_path / "s"), Runs(seed2=False)
    argv = [*ARGV[:-1], base]
    assert run_seeds(argv, (1, 2, 3), base, stopped) == 0
    expected = [["--steps", "3", "--seed", f"{n}", "--save_dir", f"{base}/seed-{n}"] for n in (1, 2, 3)]
    assert stopped.asked == expected[:2], "the third has not begun"
    again = Runs()
    assert run_seeds(argv, (1, 2, 3), base, again) == 0
    assert again.asked == [[*expected[0], "--resume"], [*expected[1], "--resume"], expected[2]]


def test_a_run_that_diverges_holds_up_no_other_and_is_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs(seed1=NonFiniteError("step 7: loss is nan"))
    assert run_seeds(ARGV, (1, 2), str(tmp_path), runs) == 1
    assert len(runs.asked) == 2
    assert "seed 1: step 7: loss is nan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "seeds", "save_dir", "said"),
    [
        ([], (1, 2), "", "--seeds: give --save_dir"),
        ([], (1, 1), "s", "--seeds 1 1: each seed once"),
        (["--seed=3"], (1, 2), "s", "--seeds and --seed contradict each other"),
        (["--resume"], (1, 2), "s", "--seeds and --resume contradict each other"),
    ],
)
def test_what_contradicts_is_one_line(argv: list[str], seeds: tuple[int, ...], save_dir: str, said: str) -> None:
    runs = Runs()
    with pytest.raises(UserError, match=said):
        run_seeds(argv, seeds, save_dir, runs)
    assert runs.asked == []
