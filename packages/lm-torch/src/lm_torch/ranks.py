"""The ranks of torch.distributed: how they find each other, and their gradients.

    RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT --join--> TorchWorld      agreements, by gloo, on the host
    backward --a hook for each parameter--> buckets --all_reduce, beside the backward pass--> mean gradients

Ranks of one machine talk over its loopback interface, and listen nowhere else.
"""

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from lm_core.errors import LostRankError, UserError
from lm_core.world import GONE, World

if TYPE_CHECKING:  # a torch that is built without them still trains in one process
    from torch._C._distributed_c10d import Store

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others: the first may be encoding a text, or retrying a save."""
JOINING = timedelta(minutes=5)
"""How long the ranks wait for each other at the start."""
BUCKET_BYTES = 25 << 20
"""Bytes of gradients that are sent at once."""
_FAILED, _SEEN = "failed", "seen"
_LOST = (
    "gloo",
    "NCCL",
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "Socket",
    "Timed out",
    "timed out",
    "remote worker",
)
_POLL = 0.05


def is_lost(error: BaseException) -> bool:
    """Whether an error of torch says that another rank has ended."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST)


@contextlib.contextmanager
def others() -> Iterator[None]:
    """A context in which this rank waits for the others.

    Raises:
        LostRankError: when one has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_lost(error) or not _is_joined():
            raise
        raise LostRankError(GONE.format(dist.get_rank(), dist.get_world_size())) from error


class TorchWorld(World):
    """See `lm_core.world.World`. The store is torch's small dictionary that all ranks read and write.

    Args:
        store: where the ranks found each other.
        rank: of this process.
        size: number of ranks.
        hosts: whether the store ends with this process.
        words: the store for what is remembered, where there is one that outlives the ranks: torchrun's.
    """

    def __init__(self, store: "Store", rank: int, size: int, hosts: bool, words: "Store | None" = None):
        self.store, self.rank, self.size, self.hosts = store, rank, size, hosts
        self.words, self.failed = words, False

    def gather_equal(self, data: bytes) -> list[bytes]:
        """See `World.gather_equal`."""
        ours = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        found = [torch.empty_like(ours) for _ in range(self.size)]
        with others():
            dist.all_gather(found, ours)
        return [bytes(one.numpy()) for one in found]

    def remember(self, key: str, value: str) -> None:
        """See `World.remember`."""
        if self.words:
            self.words.set(key, value)

    def recall(self, key: str) -> str | None:
        """See `World.recall`."""
        return bytes(self.words.get(key)).decode() if self.words and self.words.check([key]) else None

    def is_lost(self, error: BaseException) -> bool:
        """See `World.is_lost`."""
        return is_lost(error)

    def reports(self, error: BaseException) -> bool:
        """See `World.reports`: the first rank to fail, of those whose error is their own; rank 0 before others."""
        is_echo = isinstance(error, LostRankError)
        self.failed = True
        self._leave()  # the others hear of it by that
        patience = (1.0 if self.rank else 0.0) + (2.0 if is_echo else 0.0)
        try:
            end = time.monotonic() + patience
            while time.monotonic() < end:
                if self.store.check([_FAILED]):
                    break
                time.sleep(_POLL)
            ours = self.store.add(_FAILED, 1) == 1
            self.store.add(_SEEN, 1)
        except (RuntimeError, dist.DistError):  # the store has gone with its rank
            return True
        return ours

    def close(self) -> None:
        """See `World.close`."""
        self._leave()
        if self.hosts and self.failed:
            with contextlib.suppress(RuntimeError, dist.DistError):  # the others ask the store who reports
                end = time.monotonic() + 4.0
                while self.store.add(_SEEN, 0) < self.size and time.monotonic() < end:
                    time.sleep(_POLL)

    def _leave(self) -> None:
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()


def join() -> TorchWorld:
    """The ranks that the environment describes, once all of them are there.

    Raises:
        UserError: when they do not find each other.
    """
    if not dist.is_available() or not dist.is_gloo_available():
        missing = "gloo, by which ranks agree" if dist.is_available() else "torch.distributed"
        raise UserError(f"this torch has no {missing}: install one that has, or train in one process")
    from torch._C._distributed_c10d import PrefixStore

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if int(os.environ.get("LOCAL_WORLD_SIZE", "0")) == size or _is_loopback(host):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        host = "127.0.0.1"
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    kinds = "cpu:gloo,cuda:nccl" if has_gpu and dist.is_nccl_available() else "gloo"
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    hosts = rank == 0 and not is_agents
    try:
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        meeting = _store(host, port, size, hosts)
        store = PrefixStore(f"lm/{attempt}", meeting)
        dist.init_process_group(kinds, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, dist.DistError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"rank {rank} of {size} does not reach the others at {host}, port {port} ({reason}): check MASTER_ADDR,"
            " MASTER_PORT and that all ranks were started"
        ) from None
    return TorchWorld(store, rank, size, hosts, PrefixStore("lm/words", meeting) if is_agents else None)


def check_device(device: torch.device) -> None:
    """Refuse a device on which these ranks cannot exchange gradients.

    Raises:
        UserError: where NCCL is missing, or ranks would share a GPU.
    """
    if rank_count() == 1 or device.type != "cuda":
        return
    if not dist.is_nccl_available():
        raise UserError(
            "this torch has no NCCL, by which GPUs exchange gradients: install one that has, or --device cpu"
        )
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > gpus:
        raise UserError(
            f"{here} ranks on a machine with {gpus} GPU{'s' * (gpus > 1)}: start a rank for each GPU at most"
        )


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "127.0.0.1", "::1")


def _store(host: str, port: int, size: int, hosts: bool) -> "Store":
    from torch._C._distributed_c10d import TCPStore

    if not hosts:
        return TCPStore(host, port, size, is_master=False, timeout=JOINING)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error.strerror})"
        raise UserError(
            f"port {port} of {host} {why}: give another one as MASTER_PORT (torchrun --master-port)"
        ) from None
    listener.listen(size)
    return TCPStore(
        host, port, size, is_master=True, timeout=JOINING, master_listen_fd=listener.detach(), wait_for_workers=False
    )


class Gradients:
    """The mean over ranks of the gradients of some parameters, made beside the backward pass.

    A bucket is sent as soon as all its gradients are there and the one before it has been sent, so that every rank
    sends them in one order: that in which the backward pass makes them, about that of the table from its end.
    """

    def __init__(self, params: Sequence[Tensor]):
        self.params, self.size = list(params), dist.get_world_size()
        self.buckets: list[list[int]] = []
        self.place: dict[int, int] = {}
        filled = BUCKET_BYTES
        for i in reversed(range(len(self.params))):
            size = 4 * self.params[i].numel()
            if filled + size > BUCKET_BYTES:
                self.buckets.append([])
                filled = 0
            self.buckets[-1].append(i)
            self.place[i] = len(self.buckets) - 1
            filled += size
        self.armed = False
        self.missing: list[int] = []
        self.sent: list[tuple[Tensor, dist.Work]] = []
        for i, param in enumerate(self.params):
            param.register_post_accumulate_grad_hook(lambda _, i=i: self._made(i))

    def arm(self) -> None:
        """Send what the next backward pass leaves."""
        self.missing, self.sent, self.armed = [len(bucket) for bucket in self.buckets], [], True

    def _made(self, index: int) -> None:
        if not self.armed:
            return
        self.missing[self.place[index]] -= 1
        while len(self.sent) < len(self.buckets) and not self.missing[len(self.sent)]:
            bucket = [self.params[i] for i in self.buckets[len(self.sent)]]
            self._send([param.grad for param in bucket if param.grad is not None])
            for param in bucket:  # what is sent is a copy
                param.grad = None

    def _send(self, grads: Sequence[Tensor]) -> None:
        flat = torch.cat([grad.detach().reshape(-1).float() for grad in grads]).div_(self.size)
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        self.sent.append((flat, work))

    def mean(self, grads: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The means, in float32: of these gradients, or of what was sent since `arm`."""
        if grads is not None:
            self.sent = []
            for bucket in self.buckets:
                self._send([grads[i] for i in bucket])
        self.armed = False
        means = [torch.empty(0)] * len(self.params)
        for bucket, (flat, work) in zip(self.buckets, self.sent, strict=True):
            work.wait()
            parts = flat.split([self.params[i].numel() for i in bucket])
            for i, part in zip(bucket, parts, strict=True):
                means[i] = part.view(self.params[i].shape)
        self.sent = []
        return means


def rank_count() -> int:
    """Number of ranks that this process is one of."""
    return dist.get_world_size() if _is_joined() else 1


def dist_rank() -> int:
    """Which of them it is."""
    return dist.get_rank() if _is_joined() else 0


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def mean_loss(loss: Tensor) -> Tensor:
    """The mean over ranks of a loss."""
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
