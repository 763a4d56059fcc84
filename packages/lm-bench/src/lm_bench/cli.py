"""`lm-bench COMMAND`: flags -> measurements -> a table, or JSON, on stdout; progress on stderr."""

import importlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lm_bench.flags import (
    AllFlags,
    CompareFlags,
    CorpusFlags,
    DataFlags,
    FaultsFlags,
    GpuFlags,
    InferFlags,
    SavingFlags,
    ScaleFlags,
    StudyFlags,
    TokenizerFlags,
    TrainFlags,
    VerifyFlags,
)
from lm_core.cli import parse_flags
from lm_core.config import Config
from lm_core.errors import UserError, exit_code_of
from lm_core.terminal import put

PROGRAM = "lm-bench"


@dataclass(frozen=True)
class Command:
    """A function of the command's name, or of `function`, in `module`, which is imported when it is asked for."""

    flags: type[Config]
    purpose: str
    paths: str = ""
    """Paths that are named before the flags, as --help shows them; in brackets where there may be none."""
    module: str = "lm_bench.commands"
    function: str = ""


COMMANDS: Mapping[str, Command] = {
    "all": Command(AllFlags, "the short form of every table on this machine, in 20 minutes", function="every"),
    "train": Command(
        TrainFlags, "training against a plain loop and Hugging Face: speed, memory, the loop, convergence"
    ),
    "infer": Command(
        InferFlags, "greedy decoding against Hugging Face's generate: tokens per second, latency, share of bandwidth"
    ),
    "gpu": Command(GpuFlags, "training and decoding on a GPU against the peers, precision and bits: all in one call"),
    "saving": Command(SavingFlags, "how long a save of 500 MB holds training up"),
    "data": Command(DataFlags, "how many tokens a second one core reads, encodes and packs"),
    "tokenizer": Command(
        TokenizerFlags, "our tokenizer against other libraries: training, encoding, decoding, start-up"
    ),
    "corpus": Command(CorpusFlags, "one text file of a given size out of the texts at hand"),
    "scale": Command(
        ScaleFlags,
        "what a run by many GPUs costs, by paper: memory, communication, saves against failures, stragglers",
        module="lm_bench.scale.report",
    ),
    "faults": Command(FaultsFlags, "runs that are killed, cut off, damaged and lied to, and what they resume to"),
    "verify": Command(
        VerifyFlags, "whether the run folders that are named are whole", paths="RUN [RUN...]", module="lm_bench.verify"
    ),
    "study": Command(
        StudyFlags,
        "a question that optimizers or other settings answer: tuned arms, paired seeds, intervals",
        paths="[STUDY.toml]",
        module="lm_bench.study.command",
    ),
    "compare": Command(
        CompareFlags, "runs of any app side by side: a table, and curves in one HTML or PNG file", paths="RUN [RUN...]"
    ),
}


def main() -> int:
    """The program; returns its exit code."""
    return exit_code_of(lambda: run(sys.argv[1:]), PROGRAM)


def run(argv: Sequence[str]) -> int:
    """Hand over to the command that the first word names; returns the exit code.

    Raises:
        UserError: when there is no such command.
    """
    if argv and argv[0] in ("-h", "--help"):
        put(_usage())
        return 0
    known = f"known commands: {', '.join(COMMANDS)}"
    if not argv:
        raise UserError(f"no command given; {known}")
    name, command = argv[0], COMMANDS.get(argv[0])
    if command is None:
        raise UserError(f"unknown command {name!r}; {known}")
    words = ["--output=json" if word == "--json" else word for word in argv[1:]]
    paths = list(itertools.takewhile(lambda word: bool(command.paths) and not word.startswith("-"), words))
    flags = parse_flags(command.flags, f"{PROGRAM} {name} {command.paths}".rstrip(), words[len(paths) :])
    if command.paths and not paths and not command.paths.startswith("["):
        raise UserError(f"no run folder given; see {PROGRAM} {name} --help")
    function = getattr(importlib.import_module(command.module), command.function or name)
    return function(flags, *([paths] if command.paths else [])) or 0


def _usage() -> str:
    lines = (f"  {name:11}{command.purpose}" for name, command in COMMANDS.items())
    return f"usage: {PROGRAM} COMMAND [flags], or {PROGRAM} COMMAND --help\n\ncommands:\n" + "\n".join(lines)
