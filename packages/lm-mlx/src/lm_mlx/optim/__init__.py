"""The optimizers of `lm_core.optim` on MLX arrays."""

from lm_core.config import AdamWConfig, OptimizerConfig
from lm_core.model.parameters import Table
from lm_mlx.optim.adamw import AdamW
from lm_mlx.optim.base import Optimizer
from lm_mlx.optim.kbeta import KBeta


def make_optimizer(config: OptimizerConfig, table: Table) -> Optimizer:
    """The optimizer a config describes, with fresh state."""
    return AdamW(config, table) if isinstance(config, AdamWConfig) else KBeta(config, table)
