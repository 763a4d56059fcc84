"""A model that reads and does not train: weights and the activations of one batch, without optimizer and gradients.

    batch --on the device--> losses, marks, logits, or its blocks one by one --> numpy arrays

`TorchScorer` holds a model of its own; `TorchTrainer` is the same over the model that it trains.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_core.backend import Marks, NumpyArrays
from lm_core.config import ModelConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.model.parameters import check_fit, parameter_table
from lm_torch import bfloat16, product_choice
from lm_torch.decode import TorchDecoder
from lm_torch.engine import make_model
from lm_torch.fitting import fitting
from lm_torch.host import upload
from lm_torch.inputs import Inputs, Part
from lm_torch.model import LanguageModel
from lm_torch.numerics import Numerics
from lm_torch.static_decode import make_decoder
from lm_torch.tap import TappedLayer, tapped_layers


@torch.no_grad()
def load_weights(
    model: LanguageModel,
    weights: NumpyArrays,
    params: Mapping[str, Tensor] | None = None,
    part: Callable[[Tensor], Tensor] = lambda whole: whole,
) -> None:
    """Copy the arrays of the parameter table in.

    Args:
        model: whose table it is.
        weights: under the table's names.
        params: the parameters in float32, where the layers read copies of them (`lm_torch.narrow`).
        part: what of a whole parameter is held here.

    Raises:
        ValueError: for arrays that are not those of the table.
    """
    check_fit(parameter_table(model.config), weights)
    for name, param in (dict(model.named_parameters()) if params is None else params).items():
        param.copy_(part(torch.from_numpy(np.ascontiguousarray(weights[name]))))


class Scoring:
    """What is read of the model that a class holds; see `lm_core.backend.Scorer`."""

    config: StepConfig
    device: torch.device
    model: LanguageModel
    params: Mapping[str, Tensor]
    """The parameters in float32, under the table's names, in its order."""
    numerics: Numerics

    def choose_products(self) -> None:
        """Multiply by what was measured to be faster on this processor, where there is a choice.

        What is to repeat its bits in every run must not depend on a measurement.
        """
        step, narrow = self.config, self.config.dtype == "bfloat16" and bfloat16.MULTIPLIED
        if self.device.type == "cpu" and step.kernels == "fused" and not narrow and not step.deterministic:
            self.numerics.products = product_choice.choose(self.model.config)

    def _inputs(self, batch: Batch) -> Part:
        """The arguments of `LanguageModel.loss`, without dropout."""
        return next(Inputs.of(batch).on(self.device).parts(1))

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        """Mean over the targets of weight x nats, without dropout."""
        with self.numerics(), fitting():
            return self.model.loss(*self._inputs(batch))

    @torch.no_grad()
    def score(self, batch: Batch) -> NDArray[np.float32]:
        """Nats of each target [B, T], without weights and dropout."""
        ids, targets, *_, starts = self._inputs(batch)
        with self.numerics():
            return as_numpy(self.model.token_losses(ids, targets, starts))

    @torch.no_grad()
    def marks(self, batch: Batch) -> Marks:
        """Nats, rank and confidence of each target, each [B, T], without weights and dropout."""
        ids, targets, *_, starts = self._inputs(batch)
        with self.numerics(), fitting():
            return Marks.of(as_numpy(self.model.token_marks(ids, targets, starts)))

    @torch.no_grad()
    def logits(self, inputs: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """[B, T] ids -> [B, T, V]."""
        with self.numerics():
            return as_numpy(self.model(upload(inputs, self.device).long()))

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """A copy of every parameter."""
        return {name: as_numpy(param) for name, param in self.params.items()}

    def activation_norms(self, batch: Batch) -> dict[str, float]:
        """Root mean square of the residual stream after each block."""
        rms = torch.stack([layer.y.float().square().mean().sqrt() for layer in self.tap(batch)]).tolist()
        return {f"blocks.{i}": value for i, value in enumerate(rms)}

    def tap(self, batch: Batch) -> Iterator[TappedLayer]:
        """Every block in turn, without dropout."""
        ids, *_, starts = self._inputs(batch)
        return tapped_layers(self._whole_model(), ids, starts, self.numerics)

    def decoder(self, rows: int = 1, vocab_size: int | None = None) -> TorchDecoder:
        """A decoder over the current weights, which multiplies as the model does: also what a resumed run repeats."""
        decoder = make_decoder(self._whole_model(), self.config, rows, vocab_size)
        decoder.products = self.numerics.products
        return decoder

    def _whole_model(self) -> LanguageModel:
        """The model, as a whole."""
        return self.model


class TorchScorer(Scoring):
    """See `lm_core.backend.Scorer`."""

    def __init__(self, model: ModelConfig, step: StepConfig, weights: NumpyArrays, device: torch.device):
        self.config, self.device = step, device
        self.model = make_model(model, step, device)
        named = dict(self.model.named_parameters())
        self.params: Mapping[str, Tensor] = {name: named[name] for name in parameter_table(model)}
        self.numerics = Numerics(step, device)
        self.choose_products()
        self.load(weights)

    def load(self, weights: NumpyArrays) -> None:
        """Replace the parameters."""
        load_weights(self.model, weights)


def as_numpy(tensor: Tensor) -> NDArray[Any]:
    """A copy on the host."""
    return tensor.detach().cpu().numpy().copy()
