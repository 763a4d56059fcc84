"""The optimizers of `lm_core.optim` on torch tensors."""

from torch import Tensor

from lm_core.config import AdamWConfig, OptimizerConfig
from lm_core.model.parameters import Table
from lm_torch.optim.adamw import AdamW
from lm_torch.optim.base import Optimizer
from lm_torch.optim.kbeta import KBeta


def make_optimizer(config: OptimizerConfig, table: Table, params: dict[str, Tensor]) -> Optimizer:
    """The optimizer a config describes, with fresh state."""
    return AdamW(config, table, params) if isinstance(config, AdamWConfig) else KBeta(config, table, params)
