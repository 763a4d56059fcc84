"""Peak FLOP/s that makers state for their cards: dense matrix operations a second, without sparsity.

Sources: NVIDIA's data sheets. float32 is that of the ordinary units, which torch uses by default.
"""

import re

from lm_core.config import Dtype

TERAFLOPS: dict[str, dict[Dtype, float]] = {
    "V100": {"float32": 15.7},
    "T4": {"float32": 8.1},
    "A100": {"float32": 19.5, "bfloat16": 312},
    "A10G": {"float32": 31.2, "bfloat16": 70},
    "L4": {"float32": 30.3, "bfloat16": 121},
    "L40S": {"float32": 91.6, "bfloat16": 362},
    "RTX 3090": {"float32": 35.6, "bfloat16": 71},
    "RTX 4090": {"float32": 82.6, "bfloat16": 165.2},
    "H100 PCIe": {"float32": 51, "bfloat16": 756},
    "H100": {"float32": 67, "bfloat16": 989},
    "H200": {"float32": 67, "bfloat16": 989},
    "B200": {"float32": 75, "bfloat16": 2250},
}


_DECOR = re.compile(r"NVIDIA|Tesla|GeForce|SXM\d?|PCIE|HBM\d?e?|\d+GB")
"""Words that say nothing about speed. (PCIe in small letters does: it is another H100.)"""


def stated_peak(card: str, dtype: Dtype) -> float | None:
    """Operations per second of a card by the name that its driver gives; None for one that is not listed."""
    words = [word for word in card.replace("-", " ").split() if not _DECOR.fullmatch(word)]
    # Of float8, in which some of the products are made, it is that of the others: a utilization that compares.
    teraflops = TERAFLOPS.get(" ".join(words), {}).get("bfloat16" if dtype == "float8" else dtype)
    return None if teraflops is None else teraflops * 1e12
