"""Settings of torch that decide the bits of a result: set while a trainer computes, and put back after.

They belong to the process, and two trainers in it may want different ones.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lm_core.config import StepConfig
from lm_torch import onednn

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
"""Without one of two values of this variable, cuBLAS may add up in any order, and torch refuses to call it."""

# cuDNN's attention is the fastest on Hopper, forwards and backwards (docs/benchmarks.md), but adds up in any order.
_FASTEST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Numerics:
    """Numerics that a config asks of torch, on a device, and on a CPU the products that go to oneDNN."""

    def __init__(self, config: StepConfig, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.products = onednn.chosen()
        self.precision, self.deterministic = config.matmul_precision, config.deterministic
        self.attention = _FASTEST[1:] if self.deterministic else _FASTEST
        if self.deterministic and self.on_gpu:
            os.environ.setdefault(_CUBLAS, ":4096:8")

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """A context in which torch computes as the config says."""
        with (
            _precision(self.precision) if self.on_gpu else nullcontext(),
            sdpa_kernel(self.attention, set_priority=True) if self.on_gpu else nullcontext(),
            _fixed_order() if self.deterministic else nullcontext(),
            nullcontext() if self.on_gpu else onednn.using(self.products),
        ):
            yield

    def compiler_options(self) -> dict[str, Any] | None:
        """Options for `torch.compile`; None for its defaults."""
        # The compiler times reductions against each other, and which of them wins changes the order of the sums.
        known = self.deterministic and "deterministic" in torch._inductor.list_options()
        return {"deterministic": True} if known else None


@contextmanager
def _precision(wanted: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _fixed_order() -> Iterator[None]:
    memory: Any = torch.utils.deterministic
    before, filled = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    # What is not yet written is never read here, and to fill it would cost a pass over the memory.
    memory.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        memory.fill_uninitialized_memory = filled
