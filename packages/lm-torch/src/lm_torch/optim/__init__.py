"""The optimizers of `lm_core.optim` on torch tensors."""

from torch import Tensor

from lm_core.config import AdamWConfig, KBetaConfig, MuonConfig, OptimizerConfig
from lm_core.model.parameters import Table
from lm_torch.optim.adamw import AdamW
from lm_torch.optim.base import Optimizer
from lm_torch.optim.kbeta import KBeta
from lm_torch.optim.muon import Muon


def make_optimizer(config: OptimizerConfig, table: Table, params: dict[str, Tensor], fused: bool = True) -> Optimizer:
    """The optimizer a config describes, with fresh state; `fused` where there is a kernel for it."""
    match config:
        case AdamWConfig():
            return AdamW(config, table, params, fused)
        case KBetaConfig():
            return KBeta(config, table, params, fused)
        case MuonConfig():
            return Muon(config, table, params, fused)
