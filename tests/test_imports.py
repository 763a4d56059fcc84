"""Who may import whom, lazy imports included; and that the guard itself notices."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SIBLINGS = {"lm_core", "lm_torch", "lm_mlx", "lm_bench", "lm_tokenizer", "lm_pipeline"} | {
    "testbed_d",
    "transformer_lm",
    "mini_gpt",
    "gpt",
    "rlvr",
}
FRAMEWORKS = {"torch", "mlx", "kbeta"}
FORBIDDEN = {
    "lm_core": (SIBLINGS | FRAMEWORKS) - {"lm_core"},
    "lm_torch": (SIBLINGS | {"mlx", "kbeta"}) - {"lm_core", "lm_torch"},
    "lm_mlx": (SIBLINGS | {"torch"}) - {"lm_core", "lm_mlx"},
    "lm_tokenizer": (SIBLINGS | FRAMEWORKS) - {"lm_tokenizer"},
    "lm_pipeline": (SIBLINGS | FRAMEWORKS) - {"lm_core", "lm_tokenizer", "lm_pipeline"},
    "lm_bench": {"lm_torch", "lm_mlx", "testbed_d", "transformer_lm", "mini_gpt", "gpt", "rlvr"},
    "testbed_d": (SIBLINGS | FRAMEWORKS) - {"lm_core", "lm_tokenizer", "lm_pipeline", "testbed_d"},
    "transformer_lm": (SIBLINGS | FRAMEWORKS) - {"lm_core", "lm_tokenizer", "lm_pipeline", "transformer_lm"},
    "mini_gpt": (SIBLINGS | FRAMEWORKS) - {"lm_core", "lm_tokenizer", "lm_pipeline", "mini_gpt"},
    "gpt": (SIBLINGS | FRAMEWORKS) - {"lm_core", "lm_tokenizer", "lm_pipeline", "gpt"},
    "rlvr": (SIBLINGS | FRAMEWORKS) - {"lm_core", "lm_tokenizer", "lm_pipeline", "rlvr"},
}
CORE_ORDER = [
    "terminal", "errors", "file_names", "disk.untrusted", "disk.files", "disk.lock", "rng", "machine", "world",
    "config.complaint", "config.base", "config.model", "config.optimizer", "config.step", "config.schedule",
    "config.loop", "config.sampling", "config.policy_gradient", "mistakes", "cli",
    "schedules", "t_distribution", "policy_gradient", "sampling", "stop_strings", "continuation",
    "data.token_ids", "data.token_file", "data.bare_tokens", "data.shards", "data.permutation", "data.batches",
    "data.segments", "data.stream",
    "model.parameters", "model.positions", "model.init", "model.flops", "optim",
    "model.memory", "backend", "rollouts",
    "reference.model", "reference.dropout", "reference.optim",
    "run.folder", "run.tensors", "run.about",
    "run.checkpoint", "run.writer", "run.interrupts", "run.together", "run.seeds", "run.samples",
    "run.sinks.sink", "run.sinks.console", "run.sinks.tensorboard", "run.sinks.wandb", "run.log", "run.resume",
    "run.state", "run.evaluation", "run.norms", "run.plan", "run.fitting", "run.ranks", "run.shared",
    "run.summary", "run.loop",
    "interchange.ignored", "interchange.keys", "interchange.tensor_file", "interchange.architecture",
    "interchange.gpt2", "interchange.llama", "interchange.tokenizer", "interchange.folder",
    "page", "report", "run.session", "run.app",
    "testing.models", "testing.base", "testing.steps", "testing.batches", "testing.decoders",
    "testing.scorers", "testing.taps",
    "testing.tensors", "testing.operations", "testing.attention", "testing.losses",
]  # fmt: skip


def imported(source: str) -> Iterator[str]:
    """Every module a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def violations(package: str, source: str) -> set[str]:
    return {name.split(".")[0] for name in imported(source)} & FORBIDDEN[package]


def sources(package: str) -> list[Path]:
    [root] = REPOSITORY.glob(f"*/*/src/{package}")
    return sorted(root.rglob("*.py"))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    for path in sources(package):
        assert not violations(package, path.read_text()), path


def test_lm_core_has_an_order_and_nothing_runs_back_up() -> None:
    root = sources("lm_core")[0].parent
    modules = {path.relative_to(root).with_suffix("").as_posix().replace("/", "."): path for path in sources("lm_core")}
    assert {name for name in modules if not name.endswith("__init__")} == set(CORE_ORDER)
    for i, name in enumerate(CORE_ORDER):
        for other in imported(modules[name].read_text()):
            below = [later for later in CORE_ORDER[i + 1 :] if f"{other}.".startswith(f"lm_core.{later}.")]
            assert not below, f"{name} imports {other}, which stands below it"


@pytest.mark.parametrize(
    "source",
    ["import torch", "def f():\n    from torch import nn", "import importlib\nimportlib.import_module('torch.nn')"],
)
def test_the_guard_notices_also_a_lazy_import(source: str) -> None:
    assert violations("lm_core", source) == {"torch"}


def test_importing_lm_core_loads_no_framework() -> None:
    names = [f"lm_core.{name}" for name in CORE_ORDER if not name.startswith("testing.")]
    code = f"import sys, {', '.join(names)}; print(sorted({{'torch', 'mlx', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
