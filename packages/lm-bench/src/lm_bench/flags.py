"""The flags of each command."""

from typing import Literal

from pydantic import Field

from lm_core.config import Config, Dtype


class StepFlags(Config):
    """Time our training step against a bare loop of the same model in the same framework, interleaved in one run."""

    backend: Literal["torch", "mlx", "both"] = "both"
    """Which backend."""
    case: Literal["all", "testbed-d", "nanogpt-char"] = "all"
    """Which workload."""
    rounds: int = Field(15, gt=0)
    """Rounds; each times one block of either side, and gives one ratio."""
    steps: int = Field(10, gt=0)
    """Steps per block."""
    compile: bool = False
    """Let the framework compile both sides."""
    dtype: Dtype = "float32"
    """Type of activations and matrix products, on both sides."""
    output: Literal["table", "json"] = "table"
    """What to print on stdout; --json is short for --output json."""
    memory: bool = True
    """Measure peak memory too, each side in a process of its own."""
