"""The kernels of a decoding step against the plain operations: logits, caches and ids.

They run on a CUDA device (`-m gpu`), or on a CPU by Triton's interpreter, for which test_kernels_interpreted.py starts
pytest on this file.
"""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lm_core.config import ModelConfig, SamplingConfig, StepConfig
from lm_core.sampling import Generation, generate
from lm_core.testing import MODELS, rough_arrays
from lm_torch import kernels
from lm_torch.decode import TorchDecoder
from lm_torch.inference import InferenceModel, KVCache
from lm_torch.kernels import decode
from lm_torch.kernels.decode import FewRows
from lm_torch.sample import draw
from lm_torch.static_decode import StaticDecoder
from lm_torch.step import load_weights, make_model

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
if not INTERPRETED:
    pytestmark = pytest.mark.gpu
ERROR = {"float32": 2e-6, "bfloat16": 2e-2}
"""Of the logits, relative to their norm."""


@pytest.fixture(autouse=True)
def _run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "DEVICES", {DEVICE})
    monkeypatch.setattr(decode, "CHUNK", 8)  # three of them make the 24 positions of the models
    monkeypatch.setattr(decode, "MOST_PROGRAMS", 2)  # each goes over several parts of a matrix
    monkeypatch.setattr(decode, "MOST_UNIT_PROGRAMS", 1)
    monkeypatch.setattr(decode, "AHEAD_ROWS", 3)
    if INTERPRETED:  # which takes as long for a small tile as for a large one
        monkeypatch.setattr(decode, "MOST_OUTS", 64)
        monkeypatch.setattr(decode, "TOGETHER", 2)
        monkeypatch.setattr(decode, "WARP_WIDE", 16)  # so that vectors have several parts
        monkeypatch.setattr(decode, "WARP_COLUMNS", 64)
        monkeypatch.setattr(decode, "UNIT_WIDE", 16)


WIDE = ModelConfig(vocab_size=300, seq_len=24, d_model=384, n_layers=1, n_heads=6, d_ff=2304, tie_embeddings=True)
"""Vectors of several parts, one of them so long that four warps hold it."""
CONFIGS = {**MODELS, "wide": WIDE}
WIDES = ("wide", "float32"), ("wide", "bfloat16")
"""In minutes where it is interpreted, which has narrower parts instead."""
LONG = [pytest.mark.slow] if INTERPRETED else []
"""Marks of what takes many seconds in the interpreter."""


def model(name: str, dtype: Any = "float32") -> Any:
    built = make_model(CONFIGS[name], StepConfig(dtype=dtype), torch.device(DEVICE))
    load_weights(built, rough_arrays(CONFIGS[name]))
    return built


class Noting:
    """A kernel that only notes that it is launched."""

    def __init__(self, name: str, launched: list[str]) -> None:
        self.name, self.launched = name, launched

    def __getitem__(self, _grid: Any) -> Any:
        return lambda *_, **__: self.launched.append(self.name)


KERNELS = {
    "programs": ("take", "normed_linear", "linear", "normed_rows_linear", "rows_linear"),
    "attention": ("attend", "mixed_linear"),
}
"""By the attribute of `FewRows` that has them."""


def read(own: FewRows, ids: Tensor | None, of_rows: list[KVCache], positions: Tensor, out: Tensor) -> Tensor:
    """The ids [R] that were noted; checks what is counted."""
    drawn, turn, moved = torch.full((2, 9), -1, device=DEVICE), torch.ones_like(positions), positions.clone()
    own.read(ids, drawn, turn, of_rows, moved, out)
    assert torch.equal(moved, positions + 1)
    assert turn.tolist() == [2] * len(turn)
    assert drawn.flatten().tolist().count(-1) == 18 - len(turn)
    return drawn[1, : len(turn)]


def caches(inference: InferenceModel, rows: int) -> list[KVCache]:
    c, numbers = inference.config, torch.Generator().manual_seed(0)
    shape = (rows, c.kv_heads, c.seq_len, c.head_dim)

    def some() -> Tensor:
        return torch.randn(shape, generator=numbers).to(DEVICE, inference.dtype)

    return [KVCache(some(), some()) for _ in range(c.n_layers)]


@pytest.mark.parametrize(
    ("name", "dtype", "rows"),
    [
        *((name, "float32", 4) for name in MODELS),
        ("llama", "bfloat16", 4),
        ("gpt2", "bfloat16", 1),
        pytest.param("llama", "bfloat16", 1, marks=LONG),
        pytest.param("gpt2", "bfloat16", 3, marks=LONG),
        *(() if INTERPRETED else ((*wide, rows) for wide in WIDES for rows in (1, 4))),
    ],
)
def test_logits_and_caches_are_those_of_the_plain_operations(name: str, dtype: str, rows: int) -> None:
    """Rows at the first position, at the first of a chunk, at the last, and past it."""
    inference = InferenceModel(model(name, dtype), 29)
    positions = torch.tensor([0, 8, 23, 24], device=DEVICE)[-rows:]
    ids = torch.tensor([1, 30, 5, 9], device=DEVICE)[-rows:]
    plain, ours = caches(inference, rows), caches(inference, rows)
    expected = inference.logits(ids[:, None], plain, positions.clamp(max=23))
    found = torch.full_like(expected, float("nan"))
    assert torch.equal(read(FewRows(inference, rows), ids, ours, positions, found), ids)
    for row, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert float((a - b).norm()) <= ERROR[dtype] * float(b.norm()), row
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.k, b.k, rtol=ERROR[dtype], atol=ERROR[dtype])
        torch.testing.assert_close(a.v, b.v, rtol=ERROR[dtype], atol=ERROR[dtype])


def test_ids_are_those_of_the_eager_decoder() -> None:
    """Rows of several lengths, past the window, one of them ended early."""
    built, prompts = model("llama"), [[1, 2, 3], [4], list(range(23))]
    sampling = SamplingConfig(temperature=0.8, top_k=12, repetition_penalty=1.2)
    own = StaticDecoder(built, 3, graph=not INTERPRETED, ids_per_call=2)
    texts = []
    for decoder in (own, TorchDecoder(built, 3)):
        generation = Generation(decoder, prompts, 24, 0, sampling)
        for position in range(3):
            generation.end({0} if position == 1 else set())
            generation.step()
        texts.append(generation.ids)
    assert sorted(own.few_rows) == [2, 3], "the kernels did the step"
    assert texts[0] == texts[1]


def test_kernels_that_cannot_be_built_are_done_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise FileNotFoundError("no C compiler")

    monkeypatch.setattr(FewRows, "read", fail)
    built = model("gpt2")
    own, plain = StaticDecoder(built), TorchDecoder(built)
    both = [list(generate(decoder, [1, 2], 6, 24, 0, SamplingConfig())) for decoder in (own, plain)]
    assert both[0] == both[1]
    assert capsys.readouterr().err.count("this project's cannot be built (no C compiler)") == 1


@pytest.mark.parametrize(("name", "dtype"), [("bare", "float32"), ("gpt2", "bfloat16")])
def test_the_largest_is_the_first_of_several(name: str, dtype: str) -> None:
    """Of logits that are given, and of those that the kernels left."""
    inference = InferenceModel(model(name, dtype), 31)
    logits = torch.randint(-5, 5, (2, 31), generator=torch.Generator().manual_seed(0)).float().to(DEVICE)
    logits[1, 20], logits[1, 29] = 7, 7
    own, of_rows, positions = FewRows(inference, 2), caches(inference, 2), torch.tensor([3, 9], device=DEVICE)
    own.rank(logits)
    for _ in range(2):
        expected = [row.tolist().index(row.max()) for row in logits]
        assert read(own, None, of_rows, positions, logits).tolist() == expected


@pytest.mark.parametrize(
    ("name", "dtype", "rows"), [("llama", "float32", 2), ("gpt2", "bfloat16", 3), ("gpt2", "bfloat16", 1)]
)
def test_int8_weights_give_the_logits_of_the_plain_operations(name: str, dtype: str, rows: int) -> None:
    inference = InferenceModel(model(name, dtype), 29, "int8")
    positions, ids = torch.tensor([4, 8, 23], device=DEVICE)[:rows], torch.tensor([1, 30, 5], device=DEVICE)[:rows]
    plain, ours = caches(inference, rows), caches(inference, rows)
    expected = inference.logits(ids[:, None], plain, positions)
    found = torch.full_like(expected, float("nan"))
    read(FewRows(inference, rows), ids, ours, positions, found)
    assert float((found - expected).norm()) <= ERROR[dtype] * float(expected.norm())


@pytest.mark.parametrize("weights", ["same", "int8"])
def test_matrices_that_are_wide_go_to_the_matrix_units_only_as_int8(weights: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(decode, "UNIT_COLUMNS", 16)
    inference = InferenceModel(model("gpt2", "bfloat16"), 29, weights)
    own, launched = FewRows(inference, 2), []
    for module, names in KERNELS.items():
        monkeypatch.setattr(own, module, SimpleNamespace(**{name: Noting(name, launched) for name in names}))
    positions = torch.tensor([3, 9], device=DEVICE)
    own.read(positions, positions[None], positions, caches(inference, 2), positions, torch.empty(2, 29, device=DEVICE))
    wide = {"normed_rows_linear", "rows_linear"} if weights == "int8" else {"normed_linear", "linear"}
    assert set(launched) == {"take", "attend", "mixed_linear", *wide}


@pytest.mark.parametrize("top_k", [1, 7, 40])
def test_what_is_picked_is_what_is_drawn(top_k: int) -> None:
    """Many alike, limits that cut and limits that do not, uniforms at both ends: by the same rule."""
    inference = InferenceModel(model("bare"), 31)
    numbers = torch.Generator().manual_seed(top_k)
    logits = torch.randint(-4, 5, (4, 60), generator=numbers).float().to(DEVICE)
    own = FewRows(inference, 4)
    for sampling in (
        SamplingConfig(),
        SamplingConfig(temperature=0.7, top_p=0.6),
        SamplingConfig(top_p=0.8, min_p=0.2),
    ):
        sampling = sampling.model_copy(update={"top_k": top_k})
        for ends in ([0.0, 0.25, 0.75, 1 - 2**-53], [0.1, 0.4, 0.6, 0.9]):
            uniforms = torch.tensor(ends, dtype=torch.float64, device=DEVICE)
            assert own.pick(logits, uniforms, sampling).tolist() == draw(logits, uniforms, sampling).tolist()


@pytest.mark.skipif(INTERPRETED, reason="a CPU starts nothing early")
@pytest.mark.parametrize("rows", [1, 8])
def test_kernels_that_start_early_give_the_same_bits(rows: int) -> None:
    inference = InferenceModel(model("llama"), 29)
    positions, ids = torch.full((rows,), 5, device=DEVICE), torch.arange(rows, device=DEVICE)
    found = []
    for early in (False, True):
        out, of_rows = torch.empty(rows, 29, device=DEVICE), caches(inference, rows)
        for _ in range(3):
            read(FewRows(inference, rows, early), ids, of_rows, positions, out)
        found.append(out.clone())
    assert torch.equal(*found)
