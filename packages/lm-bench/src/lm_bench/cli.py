"""`lm-bench COMMAND`: flags -> measurements -> a table, or JSON, on stdout; progress on stderr."""

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from lm_bench import recompute as recomputing
from lm_bench import saving as saves
from lm_bench.cases import CASES
from lm_bench.compare.groups import grouped
from lm_bench.compare.report import compare_json, compare_table, write_comparison
from lm_bench.compare.runs import read_runs
from lm_bench.corpora import build
from lm_bench.environment import Environment, load_average, observe
from lm_bench.faults.campaign import ROWS, SHORT, run_campaign
from lm_bench.faults.report import faults_markdown, faults_table, read_results
from lm_bench.flags import (
    CompareFlags,
    CorpusFlags,
    FaultsFlags,
    GpuFlags,
    InferFlags,
    RecomputeFlags,
    SavingFlags,
    StepCase,
    StepFlags,
    TokenizerFlags,
    TrainFlags,
    VerifyFlags,
)
from lm_bench.gpu.measurement import Row as GpuRow
from lm_bench.gpu.measurement import measure as measure_gpu
from lm_bench.gpu.report import gpu_report, row_line
from lm_bench.infer.measurement import measure as measure_inference
from lm_bench.infer.report import infer_report
from lm_bench.sides import BackendName
from lm_bench.step import StepResult, measure_memory, measure_times
from lm_bench.table import proof, step_table
from lm_bench.tokenizer.libraries import LIBRARIES, OURS, describe, installed
from lm_bench.tokenizer.measurement import measure
from lm_bench.tokenizer.report import tokenizer_report
from lm_bench.train.measurement import measure as measure_training
from lm_bench.train.report import train_report
from lm_bench.verify import check_run, find_runs, verify_table
from lm_core.backend import load_backend
from lm_core.cli import parse_flags
from lm_core.config import Config, StepConfig
from lm_core.errors import UserError, exit_code_of
from lm_core.terminal import put, say

PROGRAM = "lm-bench"


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
    if argv[0] not in COMMANDS:
        raise UserError(f"unknown command {argv[0]!r}; {known}")
    return COMMANDS[argv[0]][0](argv[1:]) or 0


def _usage() -> str:
    lines = (f"  {name:11}{purpose}" for name, (_, purpose) in COMMANDS.items())
    return f"usage: {PROGRAM} COMMAND [flags], or {PROGRAM} COMMAND --help\n\ncommands:\n" + "\n".join(lines)


def step(argv: Sequence[str]) -> None:
    """`lm-bench step`."""
    flags = parse_flags(StepFlags, f"{PROGRAM} step", _words(argv))
    load = load_average()
    backends = _backends(flags.backend)
    config = StepConfig(dtype=flags.dtype, compile=flags.compile)
    frameworks = _describe(backends, config)
    results = [
        _step_result(name, case, config, flags)
        for case in (get_args(StepCase) if flags.case == "all" else (flags.case,))
        for name in backends
    ]
    environment = observe(frameworks, load)
    if flags.output == "json":
        _print_json("step", flags, environment, [asdict(result) for result in results])
        return
    settings = (
        f"{flags.rounds} rounds of {flags.steps} steps, {flags.dtype}, {'compiled' if flags.compile else 'eager'}"
    )
    put("\n".join((environment.line, f"{settings}; ratio = ours / bare", "", step_table(results), "")))
    put("\n".join(map(proof, results)))


def recompute(argv: Sequence[str]) -> None:
    """`lm-bench recompute`."""
    flags = parse_flags(RecomputeFlags, f"{PROGRAM} recompute", _words(argv))
    load, backends = load_average(), _backends(flags.backend)
    config = StepConfig(dtype=flags.dtype, compile=flags.compile)
    environment = observe(_describe(backends, config), load)
    results = [recomputing.measure(name, recomputing.CASE, config, flags.rounds, flags.steps) for name in backends]
    if flags.output == "json":
        _print_json("recompute", flags, environment, [asdict(result) for result in results])
        return
    put(f"{environment.line}\n\n{recomputing.recompute_table(results)}")


def saving(argv: Sequence[str]) -> None:
    """`lm-bench saving`."""
    flags = parse_flags(SavingFlags, f"{PROGRAM} saving", _words(argv))
    load, backends = load_average(), _backends(flags.backend)
    config = StepConfig(compile=flags.compile)
    environment = observe(_describe(backends, config), load)
    results = [saves.measure(name, saves.CASE, config, flags.rounds, flags.steps) for name in backends]
    if flags.output == "json":
        _print_json("saving", flags, environment, [asdict(result) for result in results])
        return
    put(f"{environment.line}\n\n{saves.saving_table(results)}")


def train(argv: Sequence[str]) -> None:
    """`lm-bench train`."""
    flags = parse_flags(TrainFlags, f"{PROGRAM} train", _words(argv))
    environment = _torch_environment(StepConfig(dtype=flags.dtype, compile=flags.compile, device=flags.device))
    results = measure_training(flags, say)
    if flags.output == "json":
        _print_json("train", flags, environment, asdict(results))
        return
    put(f"{environment.line}\n{train_report(results, flags)}")


def infer(argv: Sequence[str]) -> None:
    """`lm-bench infer`."""
    flags = parse_flags(InferFlags, f"{PROGRAM} infer", _words(argv))
    environment = _torch_environment(StepConfig(dtype=flags.dtype, compile=flags.compile, device=flags.device))
    results = measure_inference(flags, say)
    if flags.output == "json":
        _print_json("infer", flags, environment, asdict(results))
        return
    put(f"{environment.line}\n{infer_report(results, flags)}")


def gpu(argv: Sequence[str]) -> None:
    """`lm-bench gpu`."""
    flags = parse_flags(GpuFlags, f"{PROGRAM} gpu", _words(argv))
    environment = _torch_environment(StepConfig(device=flags.device))
    from lm_bench import peak  # torch is imported when something is measured

    with _lines_file(flags.out) as lines:

        def emit(row: GpuRow) -> None:
            say(row_line(row))
            if lines:
                lines.write(json.dumps(asdict(row), default=dict) + "\n")

        results = measure_gpu(flags, peak.device_type(flags.device), say, emit)
    if flags.output == "json":
        _print_json("gpu", flags, environment, asdict(results))
        return
    put(f"{environment.line}\n{gpu_report(results, flags)}")


def _lines_file(path: str) -> contextlib.AbstractContextManager[TextIO | None]:
    """The file for lines that are to be there even if the rest fails."""
    try:
        return Path(path).open("w", encoding="utf-8", buffering=1) if path else contextlib.nullcontext()
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}") from None


def tokenizer(argv: Sequence[str]) -> None:
    """`lm-bench tokenizer`."""
    flags = parse_flags(TokenizerFlags, f"{PROGRAM} tokenizer", _words(argv))
    versions = {name: describe(name) for name in LIBRARIES if name in (OURS, *flags.peers) and installed(name)}
    environment = observe(versions, load_average())
    results = measure(flags, say)
    if flags.output == "json":
        _print_json("tokenizer", flags, environment, asdict(results))
        return
    put(f"{environment.line}\n{tokenizer_report(results, flags)}")


def corpus(argv: Sequence[str]) -> None:
    """`lm-bench corpus`."""
    flags = parse_flags(CorpusFlags, f"{PROGRAM} corpus", argv)
    put(f"{flags.out}: {build(flags.out, flags.size, flags.sources, flags.suffixes).line}")


def _step_result(backend: BackendName, case: str, config: StepConfig, flags: StepFlags) -> StepResult:
    say(f"{case} on {backend} ...")
    memory = measure_memory(backend, CASES[case], config) if flags.memory else None
    return StepResult(case, backend, measure_times(backend, CASES[case], config, flags.rounds, flags.steps), memory)


def _torch_environment(step: StepConfig) -> Environment:
    """This machine, with torch, and transformers where it is installed."""
    load = load_average()
    frameworks = {"torch": load_backend("torch").describe(step)}
    if find_spec("transformers"):
        frameworks["transformers"] = f"transformers {version('transformers')}"
    return observe(frameworks, load)


def faults(argv: Sequence[str]) -> int:
    """`lm-bench faults`: 1 when a promise was not kept."""
    flags = parse_flags(FaultsFlags, f"{PROGRAM} faults", _words(argv))
    unknown = [name for name in flags.only if name not in ROWS]
    if unknown:
        raise UserError(f"--only {unknown[0]}: the rows are {', '.join(ROWS)}")
    if flags.results and flags.output == "json":
        raise UserError("--results are JSON already; print them with --output table or markdown")
    if flags.results:
        line, rows = read_results(flags.results)
    else:
        load, backends = load_average(), _backends(flags.backend)
        environment = observe(_describe(backends, StepConfig(device="cpu")), load)
        share, line = SHORT if flags.short else 1.0, environment.line
        rows = run_campaign(backends, flags.only, flags.seed, share, flags.keep, say)
        if flags.output == "json":
            _print_json("faults", flags, environment, [asdict(row) for row in rows])
    if flags.output == "markdown":
        put(faults_markdown(rows, line))
    elif flags.output == "table":
        put(f"{line}\n\n{faults_table(rows)}")
    return 0 if all(row.sound for row in rows) else 1


def compare(argv: Sequence[str]) -> None:
    """`lm-bench compare RUN [RUN...]`."""
    paths, rest = _paths_and_flags(argv)
    flags = parse_flags(CompareFlags, f"{PROGRAM} compare RUN [RUN...]", rest)
    if not paths:
        raise UserError("no run folder given; see lm-bench compare --help")
    groups = grouped(read_runs(paths, say))
    if flags.out:
        write_comparison(Path(flags.out), groups)
        say(f"curves: {flags.out}")
    put(json.dumps(compare_json(groups), indent=2) if flags.output == "json" else compare_table(groups))


def _paths_and_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first flag, and the others."""
    paths = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    return paths, _words(argv[len(paths) :])


def verify(argv: Sequence[str]) -> int:
    """`lm-bench verify RUN [RUN...]`: 1 when something is damaged."""
    paths, rest = _paths_and_flags(argv)
    flags = parse_flags(VerifyFlags, f"{PROGRAM} verify RUN [RUN...]", rest)
    if not paths:
        raise UserError("no run folder given; see lm-bench verify --help")
    runs = [check_run(folder) for folder in find_runs(paths)]
    if flags.output == "json":
        put(json.dumps([{**asdict(run), "folder": str(run.folder), "sound": run.sound} for run in runs], indent=2))
    else:
        put(verify_table(runs))
    return 0 if all(run.sound for run in runs) else 1


def _backends(chosen: BackendName | Literal["both"]) -> tuple[BackendName, ...]:
    return get_args(BackendName) if chosen == "both" else (chosen,)


def _describe(backends: Sequence[BackendName], config: StepConfig) -> dict[str, str]:
    return {name: load_backend(name).describe(config) for name in backends}


def _words(argv: Sequence[str]) -> list[str]:
    return ["--output=json" if word == "--json" else word for word in argv]


def _print_json(command: str, flags: Config, environment: Environment, results: Any) -> None:
    record = {
        "command": command,
        "flags": flags.model_dump(mode="json"),
        "environment": asdict(environment),
        "results": results,
    }
    put(json.dumps(record, indent=2, default=dict))


COMMANDS: Mapping[str, tuple[Callable[[Sequence[str]], int | None], str]] = {
    "step": (step, "time and memory of a training step against a bare loop of the same model"),
    "recompute": (recompute, "time and memory of a training step with gradient checkpointing and without"),
    "saving": (saving, "how long a save of 500 MB holds training up"),
    "faults": (faults, "runs that are killed, cut off, damaged and lied to, and what they resume to"),
    "verify": (verify, "whether the run folders that are named are whole"),
    "compare": (compare, "runs of any app side by side: a table, and curves in one HTML or PNG file"),
    "train": (
        train,
        "training against a plain PyTorch loop and Hugging Face: speed, memory, the loop's cost, convergence",
    ),
    "infer": (infer, "greedy decoding against Hugging Face's generate: tokens per second, latency, share of bandwidth"),
    "gpu": (gpu, "training and decoding on a GPU against the peers, precision and bits: all of it in one call"),
    "tokenizer": (tokenizer, "our tokenizer against other libraries: training, encoding, decoding, start-up"),
    "corpus": (corpus, "one text file of a given size out of the texts at hand"),
}
