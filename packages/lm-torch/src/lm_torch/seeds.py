"""Several seeds of one arm, trained together as one model: a study needs ten of each, and one fills a tenth of a GPU.

    K weights, states  --stack-->  parameters [K, ...]  --Engine, on `stacked` operations-->  K losses
    K batches          --stack-->  ids [K, B, T]                  '--part k-->  weights, state, checkpoint of seed k

Each seed has the weights, batches, dropout masks, clipping and optimizer state that it has alone, and its curve but for
rounding: a batch of products may add up in another order than one. What is read out of seed k is what a
`TorchTrainer` of that seed would give, and is loaded by one.

Axes: K seeds, B batch, T time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_core.backend import Metrics, NumpyArrays, check_together
from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.errors import UserError
from lm_core.model.parameters import check_fit
from lm_core.rng import key32
from lm_torch import stacked
from lm_torch.engine import Engine
from lm_torch.fitting import fitting
from lm_torch.inputs import Inputs


class SeedTrainer(Engine):
    """See `lm_core.backend.SeedTrainer`."""

    def __init__(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        step: StepConfig,
        weights: Sequence[NumpyArrays],
        seeds: Sequence[int],
        device: torch.device,
    ):
        check_together(step)
        if not seeds or len(weights) != len(seeds):
            raise UserError(f"{len(seeds)} seeds and {len(weights)} sets of weights: each seed starts from its own")
        super().__init__(model, optimizer, step, device, stacked, (len(seeds),))
        self.seeds = tuple(seeds)
        self.load(weights)

    def step(self, batches: Sequence[Batch], lr: float) -> list[Metrics]:
        """One optimizer step of each seed on its batch, for which the host does not wait."""
        inputs = self._inputs(batches)
        if self.dropout:
            inputs = inputs._replace(keys=self._keys())
        read = self.take(inputs, lr)
        return [
            {"loss_nats": read[k, 0], "grad_norm": read[k, 1], "grad_norms": read[k, slice(2, None)]}
            for k in range(len(self.seeds))
        ]

    def _keys(self) -> Tensor:
        """The dropout keys of the step that comes next, [micro-batches, K]."""
        words = "dropout", self.optimizer.t + 1
        parts = range(self.config.grad_accum_steps)
        return torch.tensor([[key32(seed, *words, i) for seed in self.seeds] for i in parts])

    def _inputs(self, batches: Sequence[Batch]) -> Inputs:
        """Those of the seeds as one, on the host."""
        shapes = {batch.inputs.shape for batch in batches}
        if len(batches) != len(self.seeds) or len(shapes) != 1:
            raise UserError(
                f"{len(batches)} batches of shapes {sorted(shapes)} for {len(self.seeds)} seeds: those that are trained"
                " together take one batch each, all of one shape"
            )
        return _together([Inputs.of(batch) for batch in batches])

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch]) -> Tensor:
        """Of each seed on its batch, the mean over the targets of weight x nats, without dropout: [K]."""
        inputs = self._inputs(batches).on(self.device)
        with self.numerics(), fitting():
            losses: Tensor = self.model.loss(*next(inputs.parts(1)))
        return losses

    def diagnostics(self, which: int) -> dict[str, dict[str, float]]:
        """Diagnostics of a seed's optimizer in the last step; `which` counts from 0, here and below."""
        every: dict[str, dict[str, Any]] = self.optimizer.diagnostics()
        return {kind: {bucket: values[which] for bucket, values in of.items()} for kind, of in every.items()}

    def weights(self, which: int) -> dict[str, NDArray[np.float32]]:
        """A copy of every parameter of a seed."""
        return {name: _numpy(param[which]) for name, param in self.params.items()}

    def optimizer_state(self, which: int) -> dict[str, NDArray[Any]]:
        """A copy of the state of a seed's optimizer."""
        state = self.named_state()
        return {name: _numpy(tensor[which] if tensor.ndim else tensor) for name, tensor in state.items()}

    @torch.no_grad()
    def load(self, weights: Sequence[NumpyArrays], optimizer_states: Sequence[NumpyArrays] | None = None) -> None:
        """Replace the parameters of all seeds and, if given, the states of their optimizers.

        Raises:
            UserError: when they are not of as many seeds, or not all of one step.
        """
        for given in (weights, weights if optimizer_states is None else optimizer_states):
            if len(given) != len(self.seeds):
                raise UserError(f"{len(given)} states for {len(self.seeds)} seeds: load one of each")
        for arrays in weights:
            check_fit(self.table, arrays)
        for name, param in self.params.items():
            param.copy_(torch.from_numpy(np.stack([arrays[name] for arrays in weights])))
        self.write_narrow()
        self.average.start()
        if optimizer_states is None:
            return
        steps = {int(state["step"]) for state in optimizer_states}
        if len(steps) > 1:
            raise UserError(f"states of steps {sorted(steps)}: seeds that are trained together are at one step")
        names = optimizer_states[0].keys() - {"step"}
        joined = {name: np.stack([state[name] for state in optimizer_states]) for name in names}
        self.optimizer.load({"step": np.array(steps.pop()), **joined})
        self.average.load(joined)


def _together(inputs: Sequence[Inputs]) -> Inputs:
    """Inputs of one shape as one; what some of them lack gets its default."""
    return Inputs(
        torch.stack([one.ids for one in inputs]),
        torch.stack([one.targets for one in inputs]),
        weights=_filled([one.weights for one in inputs], 1),
        starts=_filled([one.starts for one in inputs], 0),
    )


def _filled(given: Sequence[Tensor | None], default: int) -> Tensor | None:
    """Tensors of one shape as one, None where there is none."""
    found = next((x for x in given if x is not None), None)
    return None if found is None else torch.stack([torch.full_like(found, default) if x is None else x for x in given])


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy().copy()
