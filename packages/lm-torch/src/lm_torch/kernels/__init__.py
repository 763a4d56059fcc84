"""Kernels of this project's own, in Triton, for what torch has no fast operation.

    fused, attention --usable?--> kernels.attention, .cross_entropy, .gelu, .gelu_product, .heads
                                                   operators that autograd and the compiler know
    optim --usable?--> kernels.update              Adam and Kourkoutas-beta, over all parameters
    static_decode --usable?--> kernels.decode      a decoding step of a few rows
                                    '--first call--> kernels.programs      the Triton programs

Triton comes with torch on Linux and needs a CUDA device; where either is missing, `fused` does what it did before. The
first call of an operator imports it, importing lm_torch does not. Each program is held against its `scratch` twin;
Triton's interpreter runs it on a CPU for that (TRITON_INTERPRET=1).

No program uses atomics, so the same input gives the same bits; where several ways are timed (`fastest`), those of the
way that was found, which may be another one in another process, but not with deterministic algorithms.
"""

import importlib.util
import os
import shutil

import torch
from torch import Tensor

DEVICES = {"cuda"}
"""Types of device on which the programs run; a test that interprets them adds "cpu"."""

INSTALLED = importlib.util.find_spec("triton") is not None and any(
    map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))
)
"""Whether Triton is there, and a C compiler, with which it builds what launches a program."""

DTYPES = (torch.float32, torch.bfloat16)


def refuse_second_derivative(what: str = "the Triton kernels have", instead: str = "kernels = scratch") -> None:
    """For the backward pass of an operator, which has no gradient of its own.

    Raises:
        NotImplementedError: if that pass is itself recorded (create_graph).
    """
    if torch.is_grad_enabled():
        raise NotImplementedError(f"{what} no gradient of their gradient (create_graph): use {instead}")


def usable(x: Tensor) -> bool:
    """Whether the programs run on tensors like x: its device (of compute capability 8 or later) and type."""
    if not INSTALLED or x.dtype not in DTYPES or x.device.type not in DEVICES:
        return False
    return x.device.type != "cuda" or torch.cuda.get_device_properties(x.device).major >= 8
