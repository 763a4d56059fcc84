"""Whether a GPU can do what a config asks of it: its types, its memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lm_core.config import Dtype
from lm_core.errors import MemoryFullError, UserError

FLOAT8 = (8, 9)
"""Compute capability from which on a card multiplies in float8."""


def check_dtype(dtype: Dtype, device: torch.device) -> None:
    """Refuse a type that the device does not have.

    Raises:
        UserError: naming the card.
    """
    if device.type != "cuda" or dtype == "float32":
        return
    if dtype == "float8" and torch.cuda.get_device_capability(device) < FLOAT8:
        name, needed = torch.cuda.get_device_name(device), ".".join(map(str, FLOAT8))
        raise UserError(
            f"dtype float8: {name} does not multiply in it (from capability {needed} on); use dtype bfloat16"
        )
    if dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise UserError(f"dtype bfloat16: {name} does not compute in it; use dtype float32")


@contextmanager
def fitting() -> Iterator[None]:
    """A context in which the GPU's memory is filled.

    Raises:
        MemoryFullError: when the GPU's memory does not suffice, with its sizes.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryFullError(f"the GPU's memory is full{_sizes()}") from error


def _sizes() -> str:
    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    ours = torch.cuda.max_memory_reserved()
    return f" ({total / 2**30:.1f} GiB, {ours / 2**30:.1f} of them here, {free / 2**30:.1f} free)"
