import subprocess
import sys

import pytest

from lm_bench.memory import MIB, peak_mib

CHILD = "from lm_bench.memory import peak_mib; print(peak_mib())"


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss survives exec on Linux")
def test_a_child_does_not_inherit_its_parent_s_peak():
    ballast = bytearray(400 * MIB)
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert peak_mib() > len(ballast) / MIB > float(child.stdout) > 1
