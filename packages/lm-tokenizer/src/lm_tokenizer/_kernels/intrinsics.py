"""The names of the instructions in instructions.py: a kernel names them, and only who compiles it imports Numba."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Named:
    """Stands for an instruction until Numba compiles."""

    name: str


def __getattr__(name: str) -> Named:
    if name.startswith("_"):
        raise AttributeError(name)
    return Named(name)
