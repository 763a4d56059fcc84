"""Measured peaks of this machine: matrix products and reads from memory. Imports torch.

A share of the maker's figure would mix up the machine's state (power, clock, neighbours) with the program's quality.
"""

import time
from collections.abc import Callable

import torch

MATRIX_SIZE = {"cuda": 8192, "cpu": 2048}
READ_BYTES = 2**30
COPY_BYTES = {"cuda": 2**32, "cpu": 2**26}
TIMES = 5


def device_type(wish: str) -> str:
    """The kind of device that "auto", "cpu" or "gpu" gives."""
    return "cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu"


def wait(device: str) -> None:
    """Until the device has done all that was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()


def _shortest(work: Callable[[], object], device: str) -> float:
    """The seconds of the fastest of several runs, after one that warms up."""
    seconds = []
    for _ in range(TIMES + 1):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def matrix_flops(device: str, size: int | None = None) -> float:
    """Operations per second of a square matrix product: bfloat16 on a GPU, float32 on a CPU."""
    side = size or MATRIX_SIZE[device]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / _shortest(lambda: a @ b, device)


def copy_bandwidth(device: str) -> float:
    """Bytes per second, those read and those written, of copying an array; on a GPU far larger than the caches."""
    size = COPY_BYTES[device]
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / _shortest(lambda: target.copy_(source), device)


def read_bandwidth(device: str, size: int = READ_BYTES) -> float:
    """Bytes per second of adding up a float32 array far larger than the caches, with all threads."""
    array = torch.ones(size // 4, device=device)
    return size / _shortest(array.sum, device)
