import pytest

peak = pytest.importorskip("lm_bench.peak", exc_type=ImportError)


def test_this_machine_computes_and_reads():
    assert peak.matrix_flops("cpu", 64) > 1e6
    assert peak.read_bandwidth("cpu", 2**20) > 1e6
    assert peak.device_type("cpu") == "cpu"
    peak.wait("cpu")
