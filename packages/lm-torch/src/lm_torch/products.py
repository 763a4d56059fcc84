"""A matrix product on a GPU that is added to a sum in place, wider than what is multiplied."""

import torch
from torch import Tensor


def add_product_(total: Tensor, a: Tensor, b: Tensor, keep: bool = True) -> None:
    """total += a^T b, or total = a^T b, by one product that reads and writes `total` itself.

    Args:
        total: [n, m], float32.
        a: [rows, n], float32 or bfloat16; what is added is not rounded to that type.
        b: [rows, m], as a.
        keep: whether what `total` holds is added to.
    """
    torch.ops.lm_torch.add_product_(total, a, b, keep)


# The compiler knows a product of two types only as one that makes a new tensor; what it cannot look into, it calls.
@torch.library.custom_op("lm_torch::add_product_", mutates_args=("total",))
def _add_product(total: Tensor, a: Tensor, b: Tensor, keep: bool) -> None:
    if a.dtype == total.dtype:
        torch.addmm(total, a.t(), b, beta=float(keep), out=total)
    elif total.is_cuda and hasattr(torch.ops.aten.addmm, "dtype_out"):
        torch.ops.aten.addmm.dtype_out(total, a.t(), b, total.dtype, beta=float(keep), out=total)
    else:
        product = a.t() @ b
        total.add_(product) if keep else total.copy_(product)


@_add_product.register_fake
def _nothing(total: Tensor, a: Tensor, b: Tensor, keep: bool) -> None:
    return None
