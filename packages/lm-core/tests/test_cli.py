"""Command lines: flags over TOML over defaults, and every mistake is one line with exit code 2."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from lm_core import terminal
from lm_core.cli import parse_flags
from lm_core.config import Config, Execution
from lm_core.errors import NonFiniteError, UserError, exit_code_of


class Inner(Config):
    """A nested config."""

    depth: int = Field(2, gt=0)
    """How deep."""


class Round(Config):
    """One shape."""

    name: Literal["round"] = "round"
    """Which shape."""
    radius: float = Field(1.0, gt=0, lt=9)
    """How wide."""


class Square(Config):
    """Another shape."""

    name: Literal["square"] = "square"
    """Which shape."""
    side: float = Field(1.0, gt=0)
    """How long."""
    color: str = "red"
    """Which color."""


class Demo(Config):
    """A program."""

    steps: int = Field(10, gt=0)
    """Number of steps."""
    peak_lr: float = Field(0.5, gt=0)
    """Learning rate."""
    opt: Literal["adam", "kbeta"] = "adam"
    """Optimizer."""
    verbose: bool = False
    """Say more."""
    save_dir: str = ""
    """Folder."""
    inner: Inner = Inner()
    """Nested."""
    shape: Annotated[Round | Square, Field(discriminator="name")] = Round()
    """One of several."""
    config: str = ""
    """TOML file."""


class Screen(io.StringIO):
    """A terminal, or one that cannot be written."""

    encoding = "utf-8"  # type: ignore[assignment]

    def __init__(self, error: int = 0) -> None:
        super().__init__()
        self.error = error

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return super().write(text)


def parse(*argv: str, **values: object) -> Demo:
    return parse_flags(Demo, "demo", argv, values)


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(*argv)
    message = str(caught.value)
    assert "\n" not in message
    for noise in ("│", "╭", "http", "Traceback", "validation error"):
        assert noise not in message
    return message


# What wins


def test_flags_win_over_the_file_the_file_over_the_program_and_the_program_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('steps = 5\nopt = "kbeta"\n[inner]\ndepth = 7\n')
    assert parse() == Demo()
    assert parse(steps=3, peak_lr=0.25) == Demo(steps=3, peak_lr=0.25)
    both = parse("--config", str(path), "--steps", "9", steps=3, peak_lr=0.25)
    assert both == Demo(steps=9, opt="kbeta", peak_lr=0.25, inner=Inner(depth=7), config=str(path))
    assert parse(f"--config={path}", "--inner.depth", "1").inner == Inner(depth=1)


def test_tables_are_merged_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[shape]\nname = "square"\nside = 2.0\n')
    under = {"inner": {"depth": 5}, "shape": {"name": "square", "side": 3.0, "color": "blue"}}
    both = parse("--config", str(path), **under)
    assert both == Demo(inner=Inner(depth=5), shape=Square(side=2, color="blue"), config=str(path))


def test_a_flag_switches_between_several_configs_and_the_others_are_those_of_the_one_chosen(tmp_path: Path) -> None:
    assert parse("--shape.name", "square", "--shape.side", "4").shape == Square(side=4)
    assert parse("--shape.side=4", "--shape.name=square").shape == Square(side=4)
    path = tmp_path / "a.toml"
    path.write_text("[shape]\nside = 2.0\n")
    assert parse("--config", str(path), "--shape.name", "square").shape == Square(side=2)
    assert parse("--shape.radius", "2").shape == Round(radius=2)


def test_hyphens_and_underscores_are_the_same() -> None:
    assert parse("--peak-lr", "0.25", "--save-dir", "x") == parse("--peak_lr", "0.25", "--save_dir", "x")


def test_switches_go_on_and_off() -> None:
    assert parse("--verbose").verbose
    assert not parse("--no_verbose", verbose=True).verbose
    assert not parse("--no-verbose", verbose=True).verbose


def test_help_prints_every_field_with_its_docstring_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert not stop.value.code
    said = capsys.readouterr().out
    assert "--shape.name {round,square}" in said
    for words in ("--steps", "Number of steps.", "--inner.depth", "How deep.", "--save_dir"):
        assert words in said


def test_help_prints_the_flags_that_programs_share_after_a_program_s_own(capsys: pytest.CaptureFixture[str]) -> None:
    class App(Execution):
        """An app."""

        own: int = 1
        """Its own."""

    with pytest.raises(SystemExit):
        parse_flags(App, "app", ["--help"])
    said = capsys.readouterr().out
    assert said.index("--own") < said.index("--dtype") < said.index("--cuda_graph")
    assert parse_flags(App, "app", ["--own", "2", "--dtype", "bfloat16"]) == App(own=2, dtype="bfloat16")


# Mistakes


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--stesp", "3"], ["--stesp", "did you mean --steps?"]),
        (["--inner.depht", "3"], ["--inner.depht", "did you mean --inner.depth?"]),
        (["--zzzz", "3"], ["--zzzz", "--help"]),
        (["stray"], ["stray", "--help"]),
        (["--steps", "many"], ["--steps", "many"]),
        (["--steps", "1.5"], ["--steps", "1.5"]),
        (["--steps"], ["--steps", "value"]),
        (["--opt", "sgd"], ["--opt", "sgd", "adam", "kbeta"]),
        (["--shape.name", "oval"], ["--shape.name: 'oval' is not one of 'round', 'square'"]),
        (["--shape.side", "3"], ["--shape.side"]),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(argv: list[str], words: list[str]) -> None:
    message = refusal(*argv)
    assert all(word in message for word in words), message


def test_a_wrong_flag_is_the_same_line_on_a_terminal_without_line_drawing(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal("--stesp", "3") == "Unrecognized options: --stesp, 3; did you mean --steps?"
    assert refusal("--opt", "sgd").endswith("('adam', 'kbeta').; see --help")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", "-1"], "--steps: Input should be greater than 0"),
        (["--peak_lr", "nan"], "--peak_lr: Input should be a finite number"),
        (["--inner.depth", "0"], "--inner.depth: Input should be greater than 0"),
        (["--shape.name", "square", "--shape.side", "0"], "--shape.side: Input should be greater than 0"),
    ],
)
def test_a_value_out_of_range_is_one_line_like_those_of_a_file(argv: list[str], message: str) -> None:
    assert message in refusal(*argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stesp = 3", "unknown key 'stesp'; did you mean 'steps'?"),
        ("[inner]\ndepht = 3", "unknown key 'inner.depht'; did you mean 'depth'?"),
        ("steps = 'many'", "steps: Input should be a valid integer"),
        ("steps = -1", "steps: Input should be greater than 0"),
        ("steps =", "not valid TOML"),
        ("inner = 3", "inner: this is a table of keys, not a value"),
        ("shape = 3", "shape: this is a table of keys, not a value"),
        ("[shape]\nradius = 2", "shape.name is missing: it is one of 'round', 'square'"),
        ("[shape]\nname = 'oval'", "shape.name: 'oval' is not one of 'round', 'square'"),
        ("[shape]\nname = 'round'\nradius = 9", "shape.radius: Input should be less than 9"),
        ("[shape]\nname = 'square'\ncolour = 'red'", "unknown key 'shape.colour'; did you mean 'color'?"),
        ("[shape]\nname = 'round'\nside = 1", "'shape.side'; it belongs to name = 'square', and name is 'round'"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    said = refusal("--config", str(path))
    assert said.startswith(str(path))
    assert message in said


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert (
        refusal("--config", str(tmp_path / "none.toml"))
        == f"cannot read {tmp_path}/none.toml: No such file or directory"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", "five"], "--steps: 'five' is not a whole number"),
        (["--inner.depth", "1.5"], "--inner.depth: '1.5' is not a whole number"),
        (["--peak_lr=fast"], "--peak_lr: 'fast' is not a number"),
        (["--steps", "9" * 5000], "--steps: a number with too many digits"),
        (["--steps", "9" * 50], "--steps: it is beyond 9,223,372,036,854,775,807"),
    ],
)
def test_a_value_of_another_type_is_no_spelling_mistake(argv: list[str], message: str) -> None:
    assert refusal(*argv) == message


@pytest.mark.parametrize(
    ("argv", "advice"),
    [
        (["--shape.side", "3"], "it belongs to --shape.name square, and --shape.name is round"),
        (
            ["--shape.name", "square", "--shape.radius=3"],
            "it belongs to --shape.name round, and --shape.name is square",
        ),
        (["--depth", "3"], "did you mean --inner.depth?"),
        (["--no-verbos"], "did you mean --no_verbose?"),
        (["--verbose", "yes"], "--verbose takes no value: write --verbose or --no_verbose"),
    ],
)
def test_an_unknown_flag_comes_with_what_to_write(argv: list[str], advice: str) -> None:
    assert refusal(*argv).startswith("Unrecognized options: ")
    assert refusal(*argv).endswith(f"; {advice}")


def test_the_config_of_another_program_is_named_as_such_and_not_listed(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("".join(f"key{i} = 1\n" for i in range(9)))
    assert refusal("--config", str(path)) == (
        f"{path}: unknown keys 'key0', 'key1', 'key2' and 6 more: it is the config of another program"
    )


# Help


def help_page(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "__stdout__", screen)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(SystemExit):
        parse("--help")
    return screen.getvalue()


def test_help_is_coloured_on_a_terminal_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in help_page(Screen(), monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    page = help_page(Screen(), monkeypatch)
    assert "\x1b" not in page
    assert "--steps" in page


def test_help_is_plain_where_the_encoding_has_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    screen.encoding = "ascii"
    assert help_page(screen, monkeypatch).isascii()


def test_help_into_a_pipe_that_nobody_reads_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Screen(errno.EPIPE))
    monkeypatch.setattr(terminal, "drop_stdout", lambda: None)
    assert exit_code_of(lambda: parse("--help") and None, "demo") == 0


# Exit codes


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("no text\n  at all"), 2), (NonFiniteError("step 7: loss is nan"), 1)]
)
def test_an_expected_failure_is_one_line_on_stderr_and_a_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise error

    assert exit_code_of(main, "demo") == code
    assert capsys.readouterr() == ("", f"demo: error: {' '.join(str(error).split())}\n")


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_program_that_ends_well_gives_its_own_code(returned: int | None, code: int) -> None:
    assert exit_code_of(lambda: returned, "demo") == code


def test_a_failure_nobody_expected_keeps_its_traceback() -> None:
    def main() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        exit_code_of(main, "demo")


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_goes_away_ends_the_program_quietly(lines: int) -> None:
    program = f"""
import sys
from lm_core.errors import exit_code_of

def main():
    sys.stdin.readline()
    for i in range({lines}):
        print("line", i)

sys.exit(exit_code_of(main, "demo"))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, said = process.communicate(b"go\n", timeout=120)
    assert (process.returncode, said) == (0, b"")


def test_a_full_disk_under_the_output_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    program = "from lm_core.errors import exit_code_of; exit(exit_code_of(lambda: print('text', flush=True), 'demo'))"
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "demo: error: the output cannot be written: the disk is full\n")
