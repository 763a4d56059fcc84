"""The optimizers of `lm_core.optim` on MLX arrays."""

from lm_core.config import AdamWConfig, KBetaConfig, MuonConfig, OptimizerConfig
from lm_core.model.parameters import Table
from lm_mlx.optim.adamw import AdamW
from lm_mlx.optim.base import Optimizer
from lm_mlx.optim.kbeta import KBeta
from lm_mlx.optim.muon import Muon


def make_optimizer(config: OptimizerConfig, table: Table) -> Optimizer:
    """The optimizer a config describes, with fresh state."""
    match config:
        case AdamWConfig():
            return AdamW(config, table)
        case KBetaConfig():
            return KBeta(config, table)
        case MuonConfig():
            return Muon(config, table)
