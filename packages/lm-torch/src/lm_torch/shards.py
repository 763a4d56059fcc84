"""Parameters of which each rank holds a share: torch's FSDP2 for the model, plain tensors for the optimizer.

    fully_shard(block), ...    gathers a block's weights before they are used, scatters the sum of its gradients after
    shares                     the rank's rows of each parameter, which the optimizer and the average change in place

A parameter is cut along its first axis, as `torch.chunk` cuts it; a rank may have nothing of a small one. What is a sum
or a mean over elements is added up over the ranks; Muon, which needs whole matrices, gathers them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from lm_torch.model import LanguageModel

ENTRIES = ("loss", "token_losses", "token_marks")
"""Methods, besides `forward`, that are called from outside and find the root's weights gathered."""


class Shards:
    """A model cut among the ranks.

    Args:
        model: whose parameters become shares.
        device: where it is.
    """

    def __init__(self, model: LanguageModel, device: torch.device):
        self.size, self.rank = dist.get_world_size(), dist.get_rank()
        self.shapes = {name: param.shape for name, param in model.named_parameters()}
        mesh = init_device_mesh(device.type, (self.size,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for name in ENTRIES:
            register_fsdp_forward_method(model, name)
        assert isinstance(model, FSDPModule)
        self.model: FSDPModule = model
        self.named: dict[str, Any] = dict(model.named_parameters())

    def shares(self) -> dict[str, Tensor]:
        """This rank's part of each parameter, which may be changed in place."""
        return {name: param.detach().to_local() for name, param in self.named.items()}

    def gradients(self) -> dict[str, Tensor]:
        """This rank's part of the mean gradients."""
        return {name: param.grad.to_local() for name, param in self.named.items()}

    def synchronize(self, due: bool) -> None:
        """Whether the next backward pass sums its gradients over the ranks, with those that are kept from before."""
        self.model.set_requires_gradient_sync(due)

    def forget(self) -> None:
        """Gather weights again where they are used next.

        FSDP2 leaves the root's gathered after an evaluation: then they are not those of shares that were replaced
        meanwhile, and the module has them for its parameters, so the gradients of the shares would not be freed.
        """
        self.model.reshard()

    def part(self, whole: Tensor) -> Tensor:
        """This rank's rows of a whole tensor."""
        parts = whole.chunk(self.size)
        return parts[self.rank] if self.rank < len(parts) else whole[:0]

    def whole(self, name: str, share: Tensor) -> Tensor:
        """All rows of a tensor of a parameter's shape."""
        shape = self.shapes[name]
        rows = -(-shape[0] // self.size)
        padded = share.new_zeros(rows, *shape[1:])
        padded[: len(share)] = share
        gathered = share.new_empty(self.size * rows, *shape[1:])
        dist.all_gather_into_tensor(gathered, padded)
        return gathered[: shape[0]]

    def is_share(self, key: str, tensor: Tensor) -> bool:
        """Whether an entry of the state is of a parameter's shape, and so cut; the norm of a bucket is not."""
        return key.partition(".")[2] in self.shapes and tensor.ndim > 0

    def each_whole(self, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Entries of the optimizer's state, or parameters by name, one at a time, whole."""
        for key, tensor in state.items():
            name = key if key in self.shapes else key.partition(".")[2]
            yield key, self.whole(name, tensor) if key in self.shapes or self.is_share(key, tensor) else tensor

    def norms(self, norms: Tensor) -> Tensor:
        """Norms of whole tensors from those of the shares."""
        squares = norms.square()
        dist.all_reduce(squares)
        return squares.sqrt()

    def mean_sizes(self, names: Sequence[str], shares: Sequence[Tensor]) -> list[Tensor]:
        """Mean of |x| of each whole tensor."""
        sums = torch.stack([share.abs().sum() for share in shares])
        dist.all_reduce(sums)
        return [total / self.shapes[name].numel() for name, total in zip(names, sums, strict=True)]
