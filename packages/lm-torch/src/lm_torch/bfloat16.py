"""bfloat16 on a CPU that does not multiply in it: the products are made in float32, of widened matrices.

torch and oneDNN emulate it there, which takes twelve times as long as float32. Results are rounded to bfloat16 where
they would be, so a run is what it is elsewhere, but for the order of sums. One row by a matrix, as in decoding, is left
to torch: it widens weights in registers, and reads half of the bytes of float32.

Decided by what the processor can do, not by its maker: AVX-512, AVX-NE-CONVERT, or what torch asks of other processors.
ATEN_CPU_CAPABILITY=avx2, torch's own variable, makes a processor with AVX-512 one without.
"""

import torch
from torch import Tensor

ADVICE = (
    "this processor does not multiply in bfloat16: products are made in float32, which takes longer than dtype float32"
    " and saves memory alone; use dtype float32"
)


def is_multiplied(capability: str, *, by_onednn: bool, converts: bool) -> bool:
    """Whether products of bfloat16 are fast on a processor.

    Args:
        capability: the vectors that torch names, such as "AVX2" or "AVX512".
        by_onednn: whether torch gives such products to oneDNN.
        converts: whether it has AVX-NE-CONVERT.
    """
    narrow = capability in ("DEFAULT", "NO AVX", "AVX2") and not converts
    return by_onednn and not narrow


def _is_multiplied_here() -> bool:
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return is_multiplied(
        torch.backends.cpu.get_cpu_capability(),
        by_onednn=bool(asked and torch.backends.mkldnn.is_available() and asked()),
        converts=bool(capabilities.get("avx_ne_convert")),
    )


MULTIPLIED = _is_multiplied_here()
"""Whether this CPU multiplies in bfloat16."""


def is_widened(x: Tensor) -> bool:
    """Whether products of x are made in float32."""
    return not MULTIPLIED and x.dtype == torch.bfloat16 and x.device.type == "cpu"
