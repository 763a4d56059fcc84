"""The least memory that a run needs: of known models, of any size, and against what there is."""

from pathlib import Path

import pytest

from lm_core import machine
from lm_core.config import AdamWConfig, KBetaConfig, ModelConfig, MuonConfig, StepConfig
from lm_core.errors import MemoryFullError, UserError, exit_code_of, lacks_memory
from lm_core.machine import machine_memory
from lm_core.model.memory import Memory, check_memory, decoding_memory, largest_batch, training_memory
from lm_core.model.parameters import parameter_count, parameter_table
from lm_core.optim import state_shapes

GPT2 = ModelConfig(vocab_size=50257, seq_len=1024, d_model=768, n_layers=12, n_heads=12, tie_embeddings=True)
LLAMA = ModelConfig(
    vocab_size=32000, seq_len=4096, d_model=4096, n_layers=32, n_heads=32, d_ff=11008, norm="rms", mlp="swiglu",
    positions="rope", bias=False,
)  # fmt: skip


def test_the_parts_of_known_models() -> None:
    """GPT-2 has 124,439,808 parameters and Llama 2 7B 6,738,415,616, of 4 bytes; AdamW keeps two more of each."""
    gpt2 = training_memory(GPT2, AdamWConfig(), StepConfig(grad_accum_steps=2), 8, 1024)
    assert (gpt2.weights, gpt2.optimizer, gpt2.gradients) == (497_759_232, 995_518_464, 497_759_232)
    # Of a micro-batch of 4 rows, in each of 12 blocks: the stream twice, q, k, v, what is mixed, and the MLP's width.
    assert gpt2.activations == 12 * 4 * 4 * 1024 * (6 * 768 + 4 * 768)
    assert gpt2.logits == 1 << 26
    llama = training_memory(LLAMA, AdamWConfig(), StepConfig(dtype="bfloat16", gradient_checkpointing=True), 64, 4096)
    assert llama.weights == 4 * 6_738_415_616
    block = 2 * 64 * 4096 * (6 * 4096 + 2 * 11008)
    assert llama.activations == 32 * 2 * 64 * 4096 * 4096 + block
    assert decoding_memory(LLAMA, StepConfig(dtype="bfloat16"), 3) == Memory(
        weights=4 * 6_738_415_616, cache=3 * 32 * 2 * 4096 * 4096 * 2
    )


@pytest.mark.parametrize("optimizer", [AdamWConfig(), KBetaConfig(decay=0.9), MuonConfig()], ids=lambda o: o.name)
@pytest.mark.parametrize("layers", [1, 2, 5])
def test_weights_and_state_are_those_of_the_table(optimizer: AdamWConfig, layers: int) -> None:
    model = GPT2.model_copy(update={"n_layers": layers, "vocab_size": 100})
    state = sum(
        parameter_table(model)[name.partition(".")[2]].size
        for name, shape in state_shapes(optimizer, parameter_table(model)).items()
        if shape
    )
    needed = training_memory(model, optimizer, StepConfig(), 1, 1)
    assert (needed.weights, needed.optimizer) == (4 * parameter_count(model), 4 * state)


def test_all_logits_and_attention_weights_count_where_nothing_is_fused() -> None:
    scratch = training_memory(GPT2, AdamWConfig(), StepConfig(kernels="scratch"), 8, 1024)
    fused = training_memory(GPT2, AdamWConfig(), StepConfig(), 8, 1024)
    assert scratch.logits == 4 * 8 * 1024 * 50257
    assert scratch.activations - fused.activations == 12 * 4 * 8 * 12 * 1024 * 1024


def test_a_billion_layers_are_no_table() -> None:
    model = GPT2.model_copy(update={"n_layers": 10**9})
    assert training_memory(model, AdamWConfig(), StepConfig(), 1, 1).total > 10**17


@pytest.mark.parametrize(
    ("model", "rows", "advice"),
    [(GPT2, 1000, "lower the batch size or the sequence length"), (LLAMA, 1, "lower the model's width, layers or")],
)
def test_what_cannot_fit_is_refused_with_its_parts_and_advice(model: ModelConfig, rows: int, advice: str) -> None:
    needed = training_memory(model, AdamWConfig(), StepConfig(), rows, 64)
    check_memory(needed, needed.total, "training")
    check_memory(needed, None, "training")
    with pytest.raises(UserError) as caught:
        check_memory(needed, 3 << 30, "training")
    message = str(caught.value)
    assert message.startswith(f"training needs at least {needed.total / 2**30:,.1f} GiB of memory (weights ")
    assert ", optimizer " in message
    assert "the device has 3.0 GiB" in message
    assert advice in message


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("room", [0, 1 << 30, 3 << 30, 40 << 30])
def test_the_largest_batch_fits_and_one_row_more_per_part_does_not(parts: int, room: int) -> None:
    step = StepConfig(grad_accum_steps=parts)
    rows = largest_batch(GPT2, AdamWConfig(), step, 256, room)
    assert rows % parts == 0
    if rows:
        assert training_memory(GPT2, AdamWConfig(), step, rows, 256).total <= room
    assert training_memory(GPT2, AdamWConfig(), step, rows + parts, 256).total > room
    assert bool(rows) == (room > 2 << 30)


# What there is


def test_the_machine_has_memory_and_a_container_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\nSwapTotal:  2 kB\n")
    whole = machine_memory()
    assert whole is not None
    assert whole > 1 << 30
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_memory() == whole
    (tmp_path / "memory.max").write_text("1000000\n")
    assert machine_memory() == 1_000_000 + 2048
    (tmp_path / "memory.swap.max").write_text("0\n")
    assert machine_memory() == 1_000_000
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text("500000\n")
    assert machine_memory() == 500_000 + 2048


class OutOfMemoryError(RuntimeError):
    """As torch calls it on CUDA."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3.64 TiB for an array with shape (1000000, 1000000)"),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError(
            "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed buffer size"
        ),
        RuntimeError("[malloc] Unable to allocate 4000000000000 bytes."),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_memory_that_is_full_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise error

    assert lacks_memory(error)
    assert exit_code_of(main, "app") == 2
    said = capsys.readouterr().err
    assert said.startswith("app: error: the memory is full: lower the batch size")
    assert said.count("\n") == 1


def test_a_device_says_how_full_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise MemoryFullError("the GPU's memory is full (80 GiB)")

    assert exit_code_of(main, "app") == 2
    assert capsys.readouterr().err.startswith("app: error: the GPU's memory is full (80 GiB): lower the batch size")


def test_another_error_of_a_framework_is_not_hidden() -> None:
    def main() -> int:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        exit_code_of(main, "app")


def test_ranks_share_the_rows_and_with_fsdp_the_weights_too() -> None:
    model, optimizer = ModelConfig(vocab_size=64, seq_len=32, d_model=16, n_layers=2, n_heads=2), AdamWConfig()
    ddp, fsdp = StepConfig(), StepConfig(parallel="fsdp")
    alone = training_memory(model, optimizer, ddp, 8, 32)
    assert training_memory(model, optimizer, fsdp, 8, 32) == alone
    assert training_memory(model, optimizer, ddp, 16, 32, ranks=2) == alone
    shared = training_memory(model, optimizer, fsdp, 16, 32, ranks=2)
    assert (2 * shared.weights, 2 * shared.optimizer) == (alone.weights, alone.optimizer)
    assert shared.activations == alone.activations
