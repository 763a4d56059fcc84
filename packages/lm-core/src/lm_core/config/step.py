"""How a backend executes the training step."""

from typing import Literal

from pydantic import Field

from lm_core.config.base import Config

Dtype = Literal["float32", "bfloat16"]


class StepConfig(Config):
    """How a backend executes the model and the training step; none of it changes what is computed, but for rounding."""

    dtype: Dtype = "float32"
    """Type of activations and matrix products; parameters and optimizer state are float32 always."""
    matmul_precision: Literal["highest", "high"] = "highest"
    """How float32 matrices are multiplied on CUDA: in float32, or in TF32, which rounds their elements to 10 bits and
    is several times as fast. On a CPU it has no effect; MLX takes "highest" alone."""
    deterministic: bool = False
    """The same bits in every run on the same device: torch takes algorithms that add up in a fixed order, and its
    compiler kernels that are chosen without timing them. MLX has this on the CPU alone, and there anyway."""
    kernels: Literal["fused", "scratch"] = "fused"
    """The framework's fused kernels, or the same operations spelled out (`scratch.py` of either backend)."""
    compile: bool = False
    """Let the framework compile the step."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """Replay the training step as one CUDA graph for each shape of a batch: auto where launching kernels is what takes
    the time, which is where models and batches are small. Decoding is a graph unless it is off. MLX has no such thing,
    and ignores this."""
    varying_length: bool = False
    """Sequence lengths differ from step to step: torch compiles once for all of them (MLX compiles for each)."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where it runs: auto takes CUDA (torch) or Metal (MLX) if there is one."""
    grad_accum_steps: int = Field(1, gt=0)
    """Micro-batches that one step adds up; the rows of a batch are divided among them."""
    gradient_checkpointing: bool = False
    """Keep each block's input alone, and compute its activations again in the backward pass (Chen et al. 2016)."""
    barrier_every: int = Field(1, gt=0)
    """MLX evaluates its lazy graph every so many steps; torch runs as it goes and ignores this."""
