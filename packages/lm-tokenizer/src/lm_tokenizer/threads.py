"""How many threads to use."""

import os

from lm_tokenizer.errors import TokenizerError


def thread_count(threads: int | None) -> int:
    """Number of threads asked for, or that of the cores of this process.

    Raises:
        TokenizerError: for a number below 1.
    """
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise TokenizerError(f"threads {threads}: must be 1 or more")
    return threads
