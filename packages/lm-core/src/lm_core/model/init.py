"""Initial weights, drawn in numpy and keyed by (seed, name): the same to the bit on every backend, in any order."""

import numpy as np
from numpy.typing import NDArray

from lm_core.config import ModelConfig
from lm_core.model.parameters import Parameter, parameter_table
from lm_core.rng import generator

Arrays = dict[str, NDArray[np.float32]]


def initial_array(seed: int, name: str, parameter: Parameter) -> NDArray[np.float32]:
    """The initial value of one parameter, float32, of the shape the table gives."""
    if parameter.init == "normal":
        draws = generator(seed, "init", name).standard_normal(parameter.shape, dtype=np.float32)
        return draws * np.float32(parameter.std)
    return np.full(parameter.shape, 1.0 if parameter.init == "ones" else 0.0, dtype=np.float32)


def initial_arrays(config: ModelConfig, seed: int) -> Arrays:
    """The initial value of every parameter in the table."""
    return {name: initial_array(seed, name, parameter) for name, parameter in parameter_table(config).items()}
