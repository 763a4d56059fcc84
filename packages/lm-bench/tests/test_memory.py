import subprocess
import sys

import pytest

from lm_bench.memory import MIB, MemoryJob, measure, peak_mib

CHILD = "from lm_bench.memory import peak_mib; print(peak_mib())"


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss survives exec on Linux")
def test_a_child_does_not_inherit_its_parent_s_peak():
    ballast = bytearray(400 * MIB)
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert peak_mib() > len(ballast) / MIB > float(child.stdout) > 1


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("side", ["ours", "bare"])
def test_both_sides_run_in_a_process_of_their_own(backend, side):
    pytest.importorskip(f"lm_{backend}")
    job = MemoryJob(backend=backend, side=side, case="testbed-d", steps=1, dtype="float32", compile=False)
    memory = measure(job)
    assert 10 < memory.imported < memory.peak
    assert 0 < memory.added < 1000
