"""The MLX backend, as `lm_core.backend` finds it."""

from collections.abc import Sequence
from importlib.metadata import version

import mlx.core as mx

from lm_core.backend import NumpyArrays, Scorer, SeedTrainer, Trainer
from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.errors import UserError
from lm_core.machine import machine_memory, peak_memory
from lm_core.world import World
from lm_mlx import BLAS
from lm_mlx.decode import MlxDecoder
from lm_mlx.ranks import join, joined
from lm_mlx.scorer import MlxScorer
from lm_mlx.step import MlxTrainer, load_weights, make_model


def pick_device(wish: str) -> mx.Device:
    """The device for "auto", "cpu" or "gpu".

    Raises:
        UserError: when a GPU is asked for and MLX has none.
    """
    has_gpu = mx.is_available(mx.gpu)
    if wish == "gpu" and not has_gpu:
        raise UserError("device gpu: MLX has no GPU here; use device cpu")
    return mx.Device(mx.gpu if wish != "cpu" and has_gpu else mx.cpu)


def check_numerics(step: StepConfig, device: mx.Device) -> None:
    """Refuse what MLX cannot promise of the bits of a result.

    Raises:
        UserError: naming the key.
    """
    if step.dtype == "float8":
        raise UserError("dtype float8: MLX does not multiply in it; use dtype bfloat16")
    if step.matmul_precision != "highest":
        raise UserError('matmul_precision high: TF32 is for torch on CUDA; with MLX, leave it at "highest"')
    if step.deterministic and device == mx.Device(mx.gpu):
        raise UserError("deterministic: on a GPU, MLX adds up in any order; use device cpu, or deterministic = false")


def _use_device(step: StepConfig) -> None:
    device = pick_device(step.device)
    check_numerics(step, device)
    mx.set_default_device(device)


class MlxBackend:
    """See `lm_core.backend.Backend`."""

    name = "mlx"

    def world(self) -> World:
        """The ranks that mlx.launch has started."""
        return join()

    def build(
        self, model: ModelConfig, optimizer: OptimizerConfig, step: StepConfig, weights: NumpyArrays, seed: int
    ) -> Trainer:
        """A trainer that starts from `weights`. The device becomes MLX's default for the process."""
        _use_device(step)
        if step.parallel == "fsdp" and joined().size > 1:
            raise UserError('parallel fsdp: that is torch\'s; with MLX, leave it at "ddp"')
        return MlxTrainer(model, optimizer, step, weights, seed)

    def scorer(self, model: ModelConfig, step: StepConfig, weights: NumpyArrays) -> Scorer:
        """The model alone, to be read. The device becomes MLX's default for the process."""
        _use_device(step)
        return MlxScorer(model, step, weights)

    def build_seeds(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        step: StepConfig,
        weights: Sequence[NumpyArrays],
        seeds: Sequence[int],
    ) -> SeedTrainer:
        """Refused.

        Raises:
            UserError: always, with what to do.
        """
        raise UserError(f"{len(seeds)} seeds together: MLX trains one at a time; train them in turn, or with torch")

    def decoder(
        self, model: ModelConfig, step: StepConfig, weights: NumpyArrays, rows: int = 1, vocab_size: int | None = None
    ) -> MlxDecoder:
        """A decoder without a trainer. The device becomes MLX's default for the process; nothing is compiled."""
        mx.set_default_device(pick_device(step.device))
        language_model = make_model(model, step)
        load_weights(language_model, weights)
        return MlxDecoder(language_model, rows, vocab_size, step.weights_dtype)

    def peak_flops(self, step: StepConfig) -> float | None:
        """None: Apple does not state it."""
        return None

    def memory(self, step: StepConfig) -> int | None:
        """That of the machine, which Apple's GPUs share."""
        return machine_memory()

    def peak_memory(self, step: StepConfig) -> int:
        """Of the process, with what MLX holds for Apple's GPU."""
        return max(peak_memory(), int(mx.get_peak_memory()))

    def describe(self, step: StepConfig) -> str:
        """Version, device, BLAS."""
        device = pick_device(step.device)
        where = "gpu" if device == mx.Device(mx.gpu) else f"cpu with {BLAS}"
        among = f", {ranks} ranks" if (ranks := joined().size) > 1 else ""
        return f"mlx {version('mlx')} on {where}{among}"
