"""Ranks of torch.distributed against one process: the same curve, the same state, and nothing that listens outside."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lm_core.config import StepConfig
from lm_core.errors import UserError
from lm_core.reference.dropout import keep_mask
from lm_core.world import ALONE
from lm_torch import engine, ranks
from lm_torch.dropout import dropout, factors, part_key
from lm_torch.engine import Engine
from lm_torch.ranks import check_device, join

from .rank_runs import MODEL, OPTIMIZERS, start, trained

CASES = [
    f"{optimizer} {parallel} {how}"
    for optimizer, how in (("adamw", "2"), ("kbeta", "1 checkpointing"), ("muon", "2"))
    for parallel in ("ddp", "fsdp")
]
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, ::1 and the first as IPv6, as Linux writes them."""
PROGRAM = str(Path(__file__).parent / "rank_runs.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks leave; one start for all tests."""
    path = tmp_path_factory.mktemp("ranks") / "found.json"
    for _ in range(5):
        ends = [(*rank.communicate(), rank.returncode) for rank in start(2, [PROGRAM, str(path), *CASES])]
        if "is in use" not in ends[0][1]:  # else another process has taken the port since it was found free
            break
    assert [code for *_, code in ends] == [0, 0], ends
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def assert_same(ours: dict[str, Any], alone: dict[str, Any]) -> None:
    assert ours.keys() == alone.keys()
    for name, value in alone.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(
        np.array(ours["figures"])[:, :2], np.array(alone["figures"])[:, :2], rtol=0, atol=1e-5, err_msg="the curve"
    )


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_curve_and_the_state_of_one_process(found: dict[str, Any], case: str) -> None:
    assert_same(found[case], trained(case, ALONE))


def test_ranks_exchange_bytes_of_any_length(found: dict[str, Any]) -> None:
    assert found["gathered"] == [256, 512]
    assert found["whole"] is True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ranks_of_one_machine_listen_on_its_loopback_interface_alone(found: dict[str, Any]) -> None:
    assert found["listeners"], "rank 0 at least is waited for"
    assert set(found["listeners"]) <= LOOPBACK


def test_a_port_in_use_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 is in use: give another one as MASTER_PORT"):
            join()


@pytest.mark.parametrize(
    ("missing", "advice"),
    [
        ("is_available", "this torch has no torch.distributed: install one that has, or train in one process"),
        ("is_gloo_available", "this torch has no gloo, by which ranks agree: install one that has, or train in one"),
    ],
)
def test_a_torch_by_which_ranks_cannot_meet_is_one_line(
    monkeypatch: pytest.MonkeyPatch, missing: str, advice: str
) -> None:
    monkeypatch.setattr(torch.distributed, missing, lambda: False)
    with pytest.raises(UserError, match=advice):
        join()


@pytest.mark.parametrize(
    ("nccl", "gpus", "advice"),
    [
        (False, 8, "no NCCL, by which GPUs exchange gradients"),
        (True, 1, "4 ranks on a machine with 1 GPU: start a rank"),
    ],
)
def test_gpus_that_ranks_cannot_use_together_are_one_line(
    monkeypatch: pytest.MonkeyPatch, nccl: bool, gpus: int, advice: str
) -> None:
    monkeypatch.setattr(ranks, "rank_count", lambda: 4)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    check_device(torch.device("cpu"))
    with pytest.raises(UserError, match=advice):
        check_device(torch.device("cuda"))


def test_ranks_say_that_their_step_is_no_cuda_graph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "rank_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    Engine(MODEL, OPTIMIZERS["adamw"], StepConfig(cuda_graph="on"), torch.device("cpu"))
    assert "cuda_graph on: with several ranks the step is not a CUDA graph" in capsys.readouterr().err


@pytest.mark.parametrize("parts", [2, 4])
def test_the_masks_of_the_parts_of_a_batch_are_those_of_the_whole(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, rate, site = (4, 3, 5), 0.4, 7
    whole = keep_mask(shape, 123456789, site, rate)
    keys = [torch.tensor(part_key(123456789, part)) for part in range(parts)]
    share = torch.Size((4 // parts, 3, 5))
    ours = torch.cat([factors(share, rate, key, site, torch.float32) for key in keys])
    np.testing.assert_array_equal(ours.numpy() != 0, whole)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as on a GPU, by torch's operators
    spelled = torch.cat([dropout(torch.ones(share), rate, key, site) for key in keys])
    np.testing.assert_array_equal(spelled.numpy() != 0, whole)
