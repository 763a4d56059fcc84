"""Nothing else in the process ends a capture, and one that fails leaves nothing behind."""

import contextlib
import gc
import threading
from typing import Any

import pytest
import torch

from lm_torch import graph
from lm_torch.graph import capturing


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("error", [None, RuntimeError("not here")])
def test_the_garbage_collector_waits(enabled: bool, error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = monkeypatch.setattr
    fake(torch.cuda, "graph", lambda *_, **__: contextlib.nullcontext())
    fake(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    fake(torch.cuda, "current_stream", lambda: None)
    fake(graph, "free_generator", lambda: None)
    was, before = [], gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(RuntimeError) if error else contextlib.nullcontext(), capturing(Any):
            was.append(gc.isenabled())
            if error:
                raise error
        assert was == [False]
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def captured() -> torch.cuda.CUDAGraph:
    of = torch.cuda.CUDAGraph()
    x = torch.ones(8, device="cuda")
    with capturing(of):
        x.add_(1)
    return of


@pytest.mark.gpu
def test_a_graph_that_only_the_collector_can_free_ends_no_capture() -> None:
    thresholds = gc.get_threshold()
    of, x = torch.cuda.CUDAGraph(), torch.zeros(8, device="cuda")
    gc.collect()
    cycle: list[Any] = [captured()]
    cycle.append(cycle)
    del cycle
    try:
        with capturing(of):
            gc.set_threshold(1)
            kept = [[object()] for _ in range(1000)]  # any of these may start the collector
            x.add_(1)
        of.replay()
    finally:
        gc.set_threshold(*thresholds)
    assert len(kept) == 1000
    assert x.tolist() == [1.0] * 8


@pytest.mark.gpu
def test_what_a_thread_does_meanwhile_ends_no_capture() -> None:
    x, ready, go = torch.zeros(8, device="cuda"), threading.Event(), threading.Event()

    def copy() -> None:
        ready.set()
        go.wait()
        torch.ones(1 << 20, device="cuda").cpu()

    thread = threading.Thread(target=copy)
    thread.start()
    ready.wait()
    of = torch.cuda.CUDAGraph()
    with capturing(of):
        go.set()
        thread.join()
        x.add_(1)
    of.replay()
    assert x.tolist() == [1.0] * 8


@pytest.mark.gpu
def test_after_a_capture_that_fails_there_are_random_numbers_and_other_captures() -> None:
    stream = torch.cuda.current_stream()
    drawn = []
    for fails in (False, True):
        torch.manual_seed(7)
        torch.randn(8, device="cuda")
        if fails:
            with pytest.raises(RuntimeError), capturing(torch.cuda.CUDAGraph()):
                torch.ones(8, device="cuda").sum().item()
        drawn.append(torch.randn(8, device="cuda"))
    assert torch.cuda.current_stream() == stream
    assert torch.equal(*drawn)
    captured().replay()
