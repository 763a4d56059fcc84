"""The torch backend, as `lm_core.backend` finds it."""

import warnings
from collections.abc import Sequence

import torch

from lm_core.backend import NumpyArrays, Scorer, Trainer
from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.errors import UserError
from lm_core.machine import machine_memory, peak_memory
from lm_core.world import World
from lm_torch import bfloat16
from lm_torch.decode import TorchDecoder
from lm_torch.peak import stated_peak
from lm_torch.ranks import join, rank_count
from lm_torch.scorer import TorchScorer
from lm_torch.seeds import SeedTrainer
from lm_torch.static_decode import make_decoder
from lm_torch.step import TorchTrainer, load_weights, make_model


def pick_device(wish: str) -> torch.device:
    """The device for "auto", "cpu" or "gpu".

    Raises:
        UserError: when a GPU is asked for and torch sees none.
    """
    if wish == "cpu":
        return torch.device("cpu")
    with warnings.catch_warnings(record=True) as complaints:  # that the driver is too old, for one
        warnings.simplefilter("always")
        has_gpu = torch.cuda.is_available()
    if wish == "gpu" and not has_gpu:
        reason = f" ({str(complaints[0].message).splitlines()[0]})" if complaints else ""
        raise UserError(f"device gpu: torch sees no CUDA device here{reason}; use device cpu")
    return torch.device("cuda" if has_gpu else "cpu")


class TorchBackend:
    """See `lm_core.backend.Backend`."""

    name = "torch"

    def world(self) -> World:
        """The ranks that torchrun has started."""
        return join()

    def build(
        self, model: ModelConfig, optimizer: OptimizerConfig, step: StepConfig, weights: NumpyArrays, seed: int
    ) -> Trainer:
        """A trainer that starts from `weights`."""
        return TorchTrainer(model, optimizer, step, weights, seed, pick_device(step.device))

    def scorer(self, model: ModelConfig, step: StepConfig, weights: NumpyArrays) -> Scorer:
        """The model alone, to be read."""
        return TorchScorer(model, step, weights, pick_device(step.device))

    def build_seeds(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        step: StepConfig,
        weights: Sequence[NumpyArrays],
        seeds: Sequence[int],
    ) -> SeedTrainer:
        """A trainer of all seeds together, each from its own of the `weights`."""
        return SeedTrainer(model, optimizer, step, weights, seeds, pick_device(step.device))

    def decoder(
        self, model: ModelConfig, step: StepConfig, weights: NumpyArrays, rows: int = 1, vocab_size: int | None = None
    ) -> TorchDecoder:
        """A decoder without a trainer."""
        language_model = make_model(model, step, pick_device(step.device))
        load_weights(language_model, weights)
        return make_decoder(language_model, step, rows, vocab_size, step.compile)

    def peak_flops(self, step: StepConfig) -> float | None:
        """Peak that the maker states for the card; None for a CPU or a card that is not listed."""
        device = pick_device(step.device)
        if device.type != "cuda":
            return None
        return stated_peak(torch.cuda.get_device_name(device), step.dtype)

    def memory(self, step: StepConfig) -> int | None:
        """That of the card, or of the machine."""
        device = pick_device(step.device)
        if device.type == "cuda":
            return int(torch.cuda.get_device_properties(device).total_memory)
        return machine_memory()

    def peak_memory(self, step: StepConfig) -> int:
        """Of the card by torch's allocator, or of the process."""
        return torch.cuda.max_memory_allocated() if pick_device(step.device).type == "cuda" else peak_memory()

    def describe(self, step: StepConfig) -> str:
        """Version, device, threads, and what is not the default of how it computes."""
        device = pick_device(step.device)
        on_gpu = device.type == "cuda"
        where = torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"
        among = f", {ranks} ranks ({step.parallel})" if (ranks := rank_count()) > 1 else ""
        how = ", float32 products in TF32" * (on_gpu and step.matmul_precision == "high")
        emulated = not on_gpu and step.dtype == "bfloat16" and not bfloat16.MULTIPLIED
        advice = f"; {bfloat16.ADVICE}" * emulated
        return f"torch {torch.__version__} on {where}{how}{', deterministic' * step.deterministic}{among}{advice}"
