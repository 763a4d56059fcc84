"""Configs: what a person chooses of a run. Every class that more than one program reads is here.

base        Config: frozen, strict about keys, TOML in and out
complaint   a mistake as one line
model  optimizer  step  schedule  loop  sampling  policy_gradient
"""

from lm_core.config.base import Config, Text, read_toml
from lm_core.config.complaint import complaint, members_of, tag_of
from lm_core.config.loop import LoopConfig
from lm_core.config.model import ModelConfig
from lm_core.config.optimizer import AdamWConfig, DecayGroup, KBetaConfig, MuonConfig, OptimizerConfig
from lm_core.config.policy_gradient import Estimator, PolicyGradientConfig
from lm_core.config.sampling import SamplingConfig
from lm_core.config.schedule import DECAYING, Points, ScheduleConfig, parse_piecewise
from lm_core.config.step import Dtype, Execution, StepConfig, WeightsDtype

__all__ = [
    "DECAYING",
    "AdamWConfig",
    "Config",
    "DecayGroup",
    "Dtype",
    "Estimator",
    "Execution",
    "KBetaConfig",
    "LoopConfig",
    "ModelConfig",
    "MuonConfig",
    "OptimizerConfig",
    "Points",
    "PolicyGradientConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "StepConfig",
    "Text",
    "WeightsDtype",
    "complaint",
    "members_of",
    "parse_piecewise",
    "read_toml",
    "tag_of",
]
