"""Whether a GPU can do what a config asks of it: its types, its memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lm_core.config import Dtype, StepConfig
from lm_core.errors import UserError


def check_dtype(dtype: Dtype, device: torch.device) -> None:
    """Refuse a type that the device does not have.

    Raises:
        UserError: naming the card.
    """
    if dtype != "bfloat16" or device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        return
    raise UserError(f"dtype bfloat16: {torch.cuda.get_device_name(device)} does not compute in it; use dtype float32")


@contextmanager
def fitting(rows: int, config: StepConfig) -> Iterator[None]:
    """A context in which a step of `rows` rows is taken.

    Raises:
        UserError: when the GPU's memory does not suffice, with what to lower.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{_size()}a step on {rows} rows{_in_parts(config)} does not fit: {_advice(rows, config)}"
        ) from (error)


def _size() -> str:
    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    ours = torch.cuda.max_memory_reserved()
    return (
        f"the GPU's memory is full ({total / 2**30:.1f} GiB, {ours / 2**30:.1f} of them here,"
        f" {free / 2**30:.1f} free): "
    )


def _in_parts(config: StepConfig) -> str:
    return f" in {config.grad_accum_steps} parts" if config.grad_accum_steps > 1 else ""


def _advice(rows: int, config: StepConfig) -> str:
    parts = 2 * config.grad_accum_steps
    halved = f"set grad_accum_steps = {parts}" if rows % parts == 0 else f"lower the batch size to {max(1, rows // 2)}"
    ways = [f"{halved}, which halves what a part holds"]
    if not config.gradient_checkpointing:
        ways.append("set gradient_checkpointing = true")
    if config.dtype == "float32":
        ways.append("set dtype = bfloat16")
    return ", or ".join(ways)
