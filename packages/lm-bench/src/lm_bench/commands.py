"""The commands: each takes its flags, measures, and prints."""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO, get_args

from lm_bench import saving as saves
from lm_bench.compare.groups import grouped
from lm_bench.compare.report import Comparison
from lm_bench.compare.runs import read_runs
from lm_bench.corpora import build
from lm_bench.data import data_table
from lm_bench.data import measure as measure_data
from lm_bench.environment import Environment, load_average, observe
from lm_bench.every import measure_all
from lm_bench.faults.campaign import ROWS, SHORT, run_campaign
from lm_bench.faults.report import faults_markdown, faults_table, read_results
from lm_bench.flags import (
    AllFlags,
    BackendName,
    CompareFlags,
    CorpusFlags,
    DataFlags,
    FaultsFlags,
    GpuFlags,
    InferFlags,
    SavingFlags,
    TokenizerFlags,
    TrainFlags,
)
from lm_bench.gpu.measurement import Row as GpuRow
from lm_bench.gpu.measurement import measure as measure_gpu
from lm_bench.gpu.report import gpu_report, row_line
from lm_bench.infer.measurement import measure as measure_inference
from lm_bench.infer.report import infer_report
from lm_bench.tokenizer.libraries import LIBRARIES, OURS, describe, installed
from lm_bench.tokenizer.measurement import measure as measure_tokenizers
from lm_bench.tokenizer.report import tokenizer_report
from lm_bench.train.measurement import measure as measure_training
from lm_bench.train.report import train_report
from lm_core.backend import load_backend
from lm_core.config import Config, StepConfig
from lm_core.errors import UserError
from lm_core.terminal import put, say


def every(flags: AllFlags) -> None:
    """`lm-bench all`."""
    measure_all(flags)


def train(flags: TrainFlags) -> None:
    """`lm-bench train`."""
    step = StepConfig(dtype=flags.dtype, compile=flags.compile, device=flags.device)
    environment = _environment((flags.backend,), step, peers=flags.backend == "torch")
    _show("train", flags, environment, measure_training(flags, say), lambda results: train_report(results, flags))


def infer(flags: InferFlags) -> None:
    """`lm-bench infer`."""
    environment = _environment(("torch",), StepConfig(dtype=flags.dtype, compile=flags.compile, device=flags.device))
    _show("infer", flags, environment, measure_inference(flags, say), lambda results: infer_report(results, flags))


def gpu(flags: GpuFlags) -> None:
    """`lm-bench gpu`."""
    environment = _environment(("torch",), StepConfig(device=flags.device))
    from lm_bench import peak  # torch is imported when something is measured

    with _lines_file(flags.out) as lines:

        def emit(row: GpuRow) -> None:
            say(row_line(row))
            if lines:
                lines.write(json.dumps(asdict(row), default=dict) + "\n")

        results = measure_gpu(flags, peak.device_type(flags.device), say, emit)
    _show("gpu", flags, environment, results, lambda results: gpu_report(results, flags))


def _lines_file(path: str) -> contextlib.AbstractContextManager[TextIO | None]:
    """The file for lines that are to be there even if the rest fails."""
    try:
        return Path(path).open("w", encoding="utf-8", buffering=1) if path else contextlib.nullcontext()
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}") from None


def saving(flags: SavingFlags) -> None:
    """`lm-bench saving`."""
    backends, config = _backends(flags.backend), StepConfig(compile=flags.compile)
    environment = _environment(backends, config, peers=False)
    results = [saves.measure(name, saves.CASE, config, flags.rounds, flags.steps) for name in backends]
    _show("saving", flags, environment, results, lambda results: f"\n{saves.saving_table(results)}")


def data(flags: DataFlags) -> None:
    """`lm-bench data`."""
    if not flags.text:
        raise UserError("--text: name a text file, such as one of lm-bench corpus")
    environment = observe({OURS: describe(OURS)}, load_average())
    results = measure_data(Path(flags.text), flags.document_size, flags.vocab_size, flags.rounds)
    _show("data", flags, environment, results, lambda results: f"\n{data_table(results)}")


def tokenizer(flags: TokenizerFlags) -> None:
    """`lm-bench tokenizer`."""
    versions = {name: describe(name) for name in LIBRARIES if name in (OURS, *flags.peers) and installed(name)}
    environment = observe(versions, load_average())
    results = measure_tokenizers(flags, say)
    _show("tokenizer", flags, environment, results, lambda results: tokenizer_report(results, flags))


def corpus(flags: CorpusFlags) -> None:
    """`lm-bench corpus`."""
    put(f"{flags.out}: {build(flags.out, flags.size, flags.sources, flags.suffixes).line}")


def faults(flags: FaultsFlags) -> int:
    """`lm-bench faults`: 1 when a promise was not kept."""
    unknown = [name for name in flags.only if name not in ROWS]
    if unknown:
        raise UserError(f"--only {unknown[0]}: the rows are {', '.join(ROWS)}")
    if flags.results and flags.output == "json":
        raise UserError("--results are JSON already; print them with --output table or markdown")
    if flags.results:
        line, rows = read_results(flags.results)
    else:
        backends = _backends(flags.backend)
        environment = _environment(backends, StepConfig(device="cpu"), peers=False)
        share, line = SHORT if flags.short else 1.0, environment.line
        rows = run_campaign(backends, flags.only, flags.seed, share, flags.keep, say)
        if flags.output == "json":
            _print_json("faults", flags, environment, [asdict(row) for row in rows])
    if flags.output == "markdown":
        put(faults_markdown(rows, line))
    elif flags.output == "table":
        put(f"{line}\n\n{faults_table(rows)}")
    return 0 if all(row.sound for row in rows) else 1


def compare(flags: CompareFlags, paths: Sequence[str]) -> None:
    """`lm-bench compare RUN [RUN...]`."""
    runs = read_runs(paths, say)
    groups = grouped(runs)
    first = next(group.label for group in groups if runs[0] in group.runs)
    comparison = Comparison(groups, first, flags.target)
    if flags.out:
        comparison.write(Path(flags.out))
        say(f"curves: {flags.out}")
    put(json.dumps(comparison.json(), indent=2) if flags.output == "json" else comparison.text())


def _backends(chosen: str) -> tuple[BackendName, ...]:
    return tuple(name for name in get_args(BackendName) if chosen in (name, "both"))


def _environment(backends: Sequence[BackendName], step: StepConfig, *, peers: bool = True) -> Environment:
    """This machine, with the backends, and with `peers` transformers where it is installed."""
    load = load_average()
    frameworks: dict[str, str] = {name: load_backend(name).describe(step) for name in backends}
    if peers and find_spec("transformers"):
        frameworks["transformers"] = f"transformers {version('transformers')}"
    return observe(frameworks, load)


def _show(command: str, flags: Any, environment: Environment, results: Any, report: Callable[[Any], str]) -> None:
    if flags.output == "json":
        listed = [asdict(result) for result in results] if isinstance(results, list) else asdict(results)
        _print_json(command, flags, environment, listed)
    else:
        put(f"{environment.line}\n{report(results)}")


def _print_json(command: str, flags: Config, environment: Environment, results: Any) -> None:
    record = {
        "command": command,
        "flags": flags.model_dump(mode="json"),
        "environment": asdict(environment),
        "results": results,
    }
    put(json.dumps(record, indent=2, default=dict))
