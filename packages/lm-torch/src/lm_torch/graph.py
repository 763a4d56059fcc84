"""A training step as CUDA graphs: where a model is small, launching its kernels takes longer than running them.

    first calls of a shape:  the step itself, on a stream of its own     compiles, makes handles and plans
    the next:                its kernels are recorded, none runs
    from then on:            host values -> static tensors -> replay -> static result

A graph repeats the same kernels on the same memory. So all that changes from step to step comes in through the static
tensors, the parameters and the optimizer's state are changed in place, and the result is to be read before the next
replay. The graphs of all shapes share one pool of memory, as no two of them run at the same time.

On a CPU the function is called where a graph would be replayed, on the same static tensors.
"""

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_core.terminal import say
from lm_torch.host import pinned, upload

WARM_UP = 2
"""Calls of a shape before it is recorded: the first compiles, the second meets nothing new."""
MOST_GRAPHS = 64
"""Shapes that are recorded; each graph holds some megabytes."""
WORTH_IT = 2e13
"""Floating-point operations of a step below which `auto` records it: about 40 ms of a Hopper card in bfloat16. The host
launches the kernels of a dozen blocks in a few milliseconds, but the gaps between them still show."""

Given = Sequence[Tensor | None]
"""Tensors on the host."""
Function = Callable[..., Tensor]


def is_launch_bound(parameters: int, tokens: int) -> bool:
    """Whether launching the kernels of a training step may take longer than running them."""
    return 6 * parameters * tokens < WORTH_IT


@contextlib.contextmanager
def capturing(graph: torch.cuda.CUDAGraph, pool: Any = None, stream: Any = None) -> Iterator[None]:
    """`torch.cuda.graph` that Python's garbage collector does not end, and that leaves nothing behind where it fails.

    Freeing another graph ends a capture, and the collector frees those that are part of a cycle whenever it likes, so
    it waits. Another thread may be writing a checkpoint, and wait for its copies. A capture that fails leaves its
    stream the current one, and torch's generator in the belief that it is still captured.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
        ):
            yield
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the card may be lost
            free_generator()
        raise
    finally:
        if collecting:
            gc.enable()


def free_generator() -> None:
    """Give torch's generator of the card a new state that no graph has captured, and that goes on where it stands."""
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    fresh.set_offset(generator.get_offset())
    generator.graphsafe_set_state(fresh)


class Graphs:
    """Those of a function of tensors on the device that changes state in place, which is given again at each call.

    (Kept here, it would keep alive what it is a method of, and with it the memory of a model.)
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seen: Counter[Hashable] = Counter()
        self.recordings: dict[Hashable, _Recording] = {}
        self.can_record = True
        on_gpu = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if on_gpu else None
        self.pool = torch.cuda.graph_pool_handle() if on_gpu else None

    def call(self, function: Function, *given: Tensor | None) -> Tensor:
        """Results of the function for tensors on the host; valid until the next call.

        Args:
            function: the same at each call; from tensors on the device to one, without waiting for the device.
            given: on the host.
        """
        shape = tuple(None if tensor is None else tensor.shape for tensor in given)
        if shape not in self.recordings:
            self.seen[shape] += 1
            if not self.can_record or self.seen[shape] <= WARM_UP or len(self.recordings) == MOST_GRAPHS:
                return self._call(function, given)
            recording = self._record(function, given)
            if recording is None:
                return self._call(function, given)
            self.recordings[shape] = recording
        return self.recordings[shape].replay(function, given)

    def _call(self, function: Function, given: Given) -> Tensor:
        if self.stream is None or not self.can_record:
            return function(*_uploaded(given, self.device))
        # Where it is recorded later: autograd ties nodes of its graph to the stream that they were made on.
        now = torch.cuda.current_stream()
        self.stream.wait_stream(now)
        with torch.cuda.stream(self.stream):
            result = function(*_uploaded(given, self.device))
        now.wait_stream(self.stream)
        return result

    def _record(self, function: Function, given: Given) -> "_Recording | None":
        try:
            return _Recording(function, given, self.device, self.stream, self.pool)
        except (RuntimeError, NotImplementedError) as error:
            self.can_record = False
            reason = str(error).strip().splitlines() or [type(error).__name__]
            say(f"the step cannot be a CUDA graph ({reason[0]}); its kernels are launched one by one")
            return None


def _uploaded(given: Given, device: torch.device) -> list[Tensor | None]:
    return [None if tensor is None else upload(tensor, device) for tensor in given]


class _Recording:
    """The graph of one shape, its static tensors, and its static result."""

    def __init__(self, function: Function, given: Given, device: torch.device, stream: Any, pool: Any) -> None:
        self.device = device
        self.static = [None if tensor is None else tensor.to(device, copy=True) for tensor in given]
        self.graph = None
        if device.type == "cuda":
            self.graph = torch.cuda.CUDAGraph()
            with capturing(self.graph, pool, stream):
                self.result = function(*self.static)

    def replay(self, function: Function, given: Given) -> Tensor:
        """The result for other values of the same shapes."""
        for static, tensor in zip(self.static, given, strict=True):
            if static is not None and tensor is not None:
                static.copy_(pinned(tensor, self.device), non_blocking=True)
        if self.graph is None:
            self.result = function(*self.static)
        else:
            self.graph.replay()
        return self.result
