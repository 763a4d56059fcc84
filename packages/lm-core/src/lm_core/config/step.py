"""How a backend executes the training step.

Execution   the keys that every app has as flags of the same names
StepConfig  all keys
"""

from typing import Any, Literal, Self

from pydantic import Field

from lm_core.config.base import Config

Dtype = Literal["float32", "bfloat16", "float8"]
WeightsDtype = Literal["same", "int8"]


class Execution(Config):
    """The keys of a step that are flags of every app; the results are the same up to rounding."""

    dtype: Dtype = "float32"
    """Type of activations and matrix products; parameters and optimizer state are float32 always. "float8" is bfloat16
    with the products of the MLPs in float8, forward and back to their inputs: on CUDA from compute capability 8.9 on
    (Ada, Hopper); a CPU emulates it, slowly, and MLX does not have it."""
    matmul_precision: Literal["highest", "high"] = "highest"
    """How float32 matrices are multiplied on CUDA: in float32, or in TF32, which rounds their elements to 10 bits and
    is several times as fast. On a CPU it has no effect; MLX takes only "highest"."""
    deterministic: bool = False
    """Repeat the same bits in every run on the same device: torch uses algorithms that add in a fixed order, and its
    compiler picks kernels without timing them. MLX on the CPU always does; on a GPU it cannot."""
    compile: bool = False
    """Let the framework compile the step."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What each of several processes holds (docs/scale.md): ddp all of weights, gradients and optimizer state, fsdp
    (torch alone) its share of them. Without effect in one process."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """Replay the training step as one CUDA graph per batch shape: auto where kernel launches dominate, as for small
    models and batches. Decoding is a graph unless this is off. MLX has no CUDA graphs and ignores this."""


class StepConfig(Execution):
    """How a backend executes the model and the training step; the results are the same up to rounding."""

    kernels: Literal["fused", "scratch"] = "fused"
    """The framework's fused kernels, or the same operations spelled out (`scratch.py` of either backend)."""
    weights_dtype: WeightsDtype = "same"
    """Type of the weight matrices in decoding: the same as `dtype`, or int8 with one float32 scale per output channel
    (symmetric, weight-only), made when the weights are loaded and stored nowhere. Training steps ignore it."""
    varying_length: bool = False
    """Sequence lengths differ from step to step: torch compiles once for all of them (MLX compiles for each)."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device: auto takes CUDA (torch) or Metal (MLX) if there is one."""
    grad_accum_steps: int = Field(1, gt=0)
    """Micro-batches per step (gradient accumulation); the rows of a batch are divided among them."""
    gradient_checkpointing: bool = False
    """Store only each block's input, and recompute its activations in the backward pass (Chen et al. 2016)."""
    gradient_checkpointing_every: int = Field(1, gt=0)
    """With gradient checkpointing: of every so many blocks the first one alone, for less time and more memory."""
    barrier_every: int = Field(1, gt=0)
    """MLX evaluates its lazy graph every this many steps; torch is eager and ignores this."""

    @property
    def checkpointed_every(self) -> int:
        """The blocks 0, n, 2 n, ... are recomputed in the backward pass; 0: none."""
        return self.gradient_checkpointing_every if self.gradient_checkpointing else 0

    @classmethod
    def of(cls, flags: Execution, **values: Any) -> Self:
        """The step of an app's flags, with `values` for the keys that they do not have, or that follow from others."""
        return cls(**{name: getattr(flags, name) for name in Execution.model_fields} | values)
