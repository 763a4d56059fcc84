"""`lm-bench all`: the short form of every table, one measurement after another, within a number of minutes.

    parts, the most wanted first --each a process of its own, as `lm-bench COMMAND` would be--> one Markdown page

The page is written after each part, so what is there counts even when the rest is not reached. What cannot run here
says why.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from lm_bench.environment import load_average, observe
from lm_bench.flags import AllFlags
from lm_core.disk.files import write_whole
from lm_core.errors import UserError
from lm_core.terminal import put, say

ROUNDS_PER_MINUTE = 0.2
"""20 minutes are 4 rounds."""
CORPUS = 20_000_000
_LIBRARY = Path(subprocess.__file__).parent
"""Python's standard library, of which every machine has some 40 MB of text."""


@dataclass(frozen=True)
class Part:
    """One measurement."""

    title: str
    arguments: tuple[str, ...]
    """After `lm-bench`."""
    needs: tuple[str, ...] = ()
    """Modules without which it is not measured."""
    prepares: bool = False
    """Whether it has no table of its own, and those after it need it."""


def parts(rounds: int, folder: Path, seconds: float) -> list[Part]:
    """All of them; `folder` is for the texts, `seconds` for what has a budget of its own."""
    few, times = ("--rounds", str(max(1, rounds // 2))), ("--rounds", str(rounds))
    char, large = ("--cases", "nanogpt-char"), ("--cases", "gpt2-124m")
    corpus, tokenizer = folder / "corpus.txt", folder / "tokenizer"
    files = ("--vocab_json", str(tokenizer / "vocab.json"), "--merges", str(tokenizer / "merges.txt"))
    plain = ("--peers", "plain", "plain-fused", "huggingface")
    return [
        Part("Training, float32", ("train", *char, *plain, "--parts", "step", "memory", *times), ("torch",)),
        Part("Decoding", ("infer", *char, *times), ("torch", "transformers")),
        Part("Decoding, 124 M", ("infer", *large, "--tokens", "64", *few), ("torch", "transformers")),
        Part(
            "Training, 124 M",
            ("train", *large, *plain, "--parts", "forward_backward", "step", "--steps", "1", *few),
            ("torch",),
        ),
        Part(
            "The corpus",
            ("corpus", "--out", str(corpus), "--size", str(CORPUS), "--sources", str(_LIBRARY), "--suffixes", ".py"),
            prepares=True,
        ),
        Part("From text to batches", ("data", "--text", str(corpus), *few)),
        Part("Training a tokenizer", ("tokenizer", "--corpora", str(corpus), "--parts", "train")),
        Part(
            "Encoding and decoding text",
            ("tokenizer", "--corpora", str(corpus), *files, "--parts", "encode", "decode", "start", *times),
        ),
        Part("The run loop", ("train", *char, "--parts", "loop", *few), ("torch",)),
        Part(
            "Training, bfloat16",
            ("train", *char, "--peers", "plain", "--parts", "step", "--dtype", "bfloat16", *times),
            ("torch",),
        ),
        Part("Decoding, 124 M, bfloat16", ("infer", *large, "--dtype", "bfloat16", *few), ("torch", "transformers")),
        Part(
            "Training on MLX",
            ("train", "--backend", "mlx", "--compile", *char, "--peers", "plain", "--parts", "step", *few),
            ("mlx",),
        ),
        Part("Saving", ("saving", "--backend", "torch", *few), ("torch",)),
        Part("Killed and resumed", ("faults", "--short")),
        Part("On a GPU", ("gpu", "--device", "gpu", "--budget_seconds", f"{min(480, seconds):.0f}"), ("torch",)),
        # Minutes, where MLX has no BLAS but the one of its wheel.
        Part("Saving on MLX", ("saving", "--backend", "mlx", "--steps", "10", *few), ("mlx",)),
    ]


def measure_all(flags: AllFlags, run: Callable[[Sequence[str], float], str] | None = None) -> None:
    """Measure everything; `run` gives the table of a command in at most some seconds, or raises UserError.

    Raises:
        UserError: when the page cannot be written.
    """
    run, started = run or run_command, time.monotonic()
    rounds = max(1, min(7, round(ROUNDS_PER_MINUTE * flags.minutes)))
    page = [f"# lm-bench all --minutes {flags.minutes:g}", observe({}, load_average()).line]

    def left() -> float:
        return 60 * flags.minutes - (time.monotonic() - started)

    with TemporaryDirectory(prefix="lm-bench-") as name:
        for part in parts(rounds, Path(name), left()):
            say(f"{part.title}: lm-bench {' '.join(part.arguments)}")
            text = _table(part, Path(name), run, left())
            if part.prepares and text.startswith("    "):
                continue
            page.append(f"## {part.title}\n\n`lm-bench {_shown(part, Path(name))}`\n\n{text}")
            _write(flags.out, page)
    put("\n\n".join(page))


def _table(part: Part, folder: Path, run: Callable[[Sequence[str], float], str], seconds: float) -> str:
    missing = [name for name in part.needs if not find_spec(name)]
    if missing:
        return f"Not measured: {' and '.join(missing)} not installed."
    if "--vocab_json" in part.arguments and not (folder / "tokenizer").exists():
        _learn(folder)
    if seconds <= 0:
        return "Not measured: no time was left."
    try:
        return "\n".join(f"    {line}".rstrip() for line in run(part.arguments, seconds).strip().splitlines())
    except UserError as error:
        return f"Not measured: {error}."


def _learn(folder: Path) -> None:
    """Learn a tokenizer from the corpus, in GPT-2's files: the libraries are compared with its merges."""
    from lm_tokenizer import Tokenizer

    if (folder / "corpus.txt").exists():
        Tokenizer.train(str(folder / "corpus.txt"), vocab_size=32_000).save(folder / "tokenizer")


def run_command(arguments: Sequence[str], seconds: float) -> str:
    """What `lm-bench` with these arguments prints.

    Raises:
        UserError: when it fails, or has not ended after `seconds`.
    """
    code = "import sys; from lm_bench.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.communicate()
        raise UserError(f"it was stopped when the time was over, after {seconds:.0f} s") from None
    except BaseException:
        process.terminate()
        process.communicate()
        raise
    if process.returncode:
        last = [line for line in err.strip().splitlines() if line.strip()][-1:] or [f"exit code {process.returncode}"]
        raise UserError(last[0].removeprefix("lm-bench: error: "))
    return out


def _shown(part: Part, folder: Path) -> str:
    """The arguments without the name of the temporary folder."""
    return " ".join(part.arguments).replace(f"{folder}/", "").replace(str(_LIBRARY), "PYTHON")


def _write(out: str, page: Sequence[str]) -> None:
    if not out:
        return
    try:
        write_whole(Path(out), ("\n\n".join(page) + "\n").encode())
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from None
