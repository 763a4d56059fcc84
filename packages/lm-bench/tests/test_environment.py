import json
from dataclasses import asdict

import pytest

from lm_bench import commands
from lm_bench.cli import COMMANDS, run
from lm_bench.environment import (
    Environment,
    blas,
    core_count,
    cpu_model,
    instructions,
    load_average,
    observe,
    torch_libraries,
)


def test_the_line_names_machine_versions_and_date():
    environment = observe({"torch": "torch 9 on cpu, 2 threads"}, load=0.25)
    for part in (environment.date, cpu_model(), f"{core_count()} cores", "load 0.25", "numpy", "torch 9 on cpu"):
        assert part in environment.line
    assert core_count() > 0
    assert load_average() >= 0


def test_the_instructions_are_the_widest_with_bfloat16_and_the_limits():
    zen4 = ["sse2", "avx", "avx2", "avx512f", "avx512_bf16"]
    assert instructions(zen4, {}) == "AVX-512 + bfloat16"
    assert instructions(["avx", "avx2"], {"HOME": "x"}) == "AVX2"
    assert instructions(["fp", "asimd", "bf16"], {}) == "NEON + bfloat16"
    assert instructions(zen4, {"ONEDNN_MAX_CPU_ISA": "AVX2"}) == "AVX-512 + bfloat16 (ONEDNN_MAX_CPU_ISA=AVX2)"
    two = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    assert instructions(zen4, two) == "AVX-512 + bfloat16 (ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2)"
    assert instructions([], {})


def test_the_line_names_what_limits_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MKL_NUM_THREADS", "2")
    assert "OMP_NUM_THREADS=3" in observe({}, 0.0).line
    assert "MKL_NUM_THREADS=2" in observe({}, 0.0).threads


def test_the_libraries_of_matrix_products_are_named():
    assert blas().startswith("numpy's BLAS ")
    assert blas().split(",")[0] in observe({}, 0.0).line
    built = "- Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build\n- Intel(R) MKL-DNN v3.7.1 (Git Hash)"
    assert torch_libraries(built) == "MKL 2024.2 and oneDNN 3.7.1"
    assert torch_libraries("BLAS_INFO=accelerate, BUILD_TYPE=Release") == "BLAS accelerate"


def test_a_result_of_an_earlier_version_is_read():
    said = asdict(observe({}, 0.0))
    for added in ("instructions", "threads", "blas"):
        del said[added]
    assert ", ," not in Environment(**said).line


MEASURED = {
    "train": ("measure_training", ()),
    "infer": ("measure_inference", ()),
    "gpu": ("measure_gpu", ()),
    "saving": ("saves", ("--backend", "torch")),
    "data": ("measure_data", ("--text", __file__)),
    "tokenizer": ("measure_tokenizers", ()),
    "faults": ("run_campaign", ("--backend", "torch")),
}
"""Command -> the function of `commands` that measures, and flags."""


@pytest.mark.parametrize("command", MEASURED)
def test_a_result_names_what_it_ran_on(command, monkeypatch, capsys):
    if command not in ("data", "tokenizer"):
        pytest.importorskip("torch")
        pytest.importorskip("lm_torch")
    measure, flags = MEASURED[command]
    target = commands.saves if measure == "saves" else commands
    fake = (lambda *_: observe({}, 0.0)) if measure == "saves" else (lambda *_: [])
    monkeypatch.setattr(target, "measure" if measure == "saves" else measure, fake)
    run([command, "--json", *flags])
    environment = json.loads(capsys.readouterr().out)["environment"]
    assert environment.keys() == asdict(observe({}, 0.0)).keys()
    assert environment["frameworks"]


def test_every_other_command_measures_nothing_or_goes_through_one_that_does():
    assert COMMANDS.keys() - MEASURED.keys() <= {"all", "corpus", "verify", "compare", "study", "scale"}
