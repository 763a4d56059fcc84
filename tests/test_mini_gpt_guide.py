"""docs/mini_gpt.md: its program runs, and its table of sizes is right."""

import re
from pathlib import Path

import pytest

from lm_core.cli import parse_flags
from lm_core.config import AdamWConfig, StepConfig
from lm_core.model.memory import readable, training_memory
from lm_core.model.parameters import parameter_count
from mini_gpt.flags import Flags
from mini_gpt.workload import model_of

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "mini_gpt.md").read_text(encoding="utf-8")
SIZES = re.findall(r"^\| [^|]+ \| `(--[^`]+)` \| ([\d,]+) \| ([\d.,]+ [KMG]iB) \|$", PAGE, re.MULTILINE)


def test_its_program_runs() -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("sentencepiece")
    [program] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(program, "mini_gpt.md", "exec"), {"__name__": "guide"})


def test_there_is_a_size_for_each_machine() -> None:
    assert len(SIZES) == PAGE.split("## Sizes")[1].split("\n## ")[0].count("\n| ") - 1


@pytest.mark.parametrize(("words", "parameters", "memory"), SIZES)
def test_a_size_is_what_the_flags_give(words: str, parameters: str, memory: str) -> None:
    flags = parse_flags(Flags, "train_bpe", words.split())
    model = model_of(flags, flags.vocab_size)
    step = StepConfig(dtype="bfloat16" if flags.amp else "float32", grad_accum_steps=flags.grad_accum_steps)
    rows = flags.batch_size * flags.grad_accum_steps
    least = training_memory(model, AdamWConfig(), step, rows, flags.block_size).total
    assert (f"{parameter_count(model):,}", readable(least)) == (parameters, memory)
