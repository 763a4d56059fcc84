"""Where and when a number was measured; a number without it says nothing."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
)
"""Variables by which a library uses fewer instructions than the processor has."""
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
"""Variables by which a library uses fewer threads than there are cores."""
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "asimd": "NEON"}
_BFLOAT16 = {"amx_bf16": "AMX bfloat16", "avx512_bf16": "bfloat16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Environment:
    """One machine at one moment."""

    cpu: str
    cores: int
    load: float
    """Runnable processes over the last minute, before the measurement; a quiet machine is near 0."""
    system: str
    python: str
    numpy: str
    frameworks: dict[str, str]
    """Backend -> its own line on version, device, threads."""
    lm_bench: str
    date: str
    # Results of earlier versions have none of these.
    instructions: str = ""
    """The processor's vector instructions, and what limits them."""
    threads: str = ""
    """What limits threads; a backend's own line says how many it has."""
    blas: str = ""
    """Libraries of matrix products, of numpy and of torch where that is loaded; MLX's is in its line."""

    @property
    def line(self) -> str:
        """Everything, for people."""
        machine = [
            self.cpu,
            f"{self.cores} cores",
            self.threads,
            self.instructions,
            f"load {self.load:.2f}",
            self.system,
        ]
        versions = [f"python {self.python}", f"numpy {self.numpy}", self.blas, *self.frameworks.values()]
        return " | ".join([self.date, ", ".join(filter(None, machine)), *filter(None, versions)])


def observe(frameworks: dict[str, str], load: float) -> Environment:
    """This machine, now."""
    return Environment(
        cpu=cpu_model(),
        cores=core_count(),
        load=load,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        numpy=np.__version__,
        frameworks=frameworks,
        lm_bench=version("lm-bench"),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        instructions=instructions(_processor_flags(), os.environ),
        threads=_set(THREADS, os.environ) or "a thread for each core",
        blas=blas(),
    )


def load_average() -> float:
    """The last minute's load, NaN where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def core_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def instructions(flags: Collection[str], environment: Mapping[str, str]) -> str:
    """The widest vectors that a processor with these flags has, what multiplies bfloat16, and what is forbidden to use.

    Args:
        flags: as in /proc/cpuinfo.
        environment: variables; those by which libraries are kept to fewer instructions count.
    """
    widest = next((name for flag, name in _VECTORS.items() if flag in flags), platform.machine())
    narrow = [name for flag, name in _BFLOAT16.items() if flag in flags]
    limits = _set(LIMITS, environment)
    return " ".join([widest, *(f"+ {name}" for name in narrow)]) + f" ({limits})" * bool(limits)


def _set(names: Sequence[str], environment: Mapping[str, str]) -> str:
    return " ".join(f"{name}={environment[name]}" for name in names if environment.get(name))


def blas() -> str:
    """Libraries that multiply matrices here: numpy's, and torch's where it is loaded, with their versions."""
    built = (np.show_config(mode="dicts") or {}).get("Build Dependencies", {}).get("blas", {})
    found = [f"numpy's BLAS {built.get('name', 'unknown')} {built.get('version', '')}".strip()]
    if "torch" in sys.modules:
        found.append(f"torch's {torch_libraries(sys.modules['torch'].__config__.show())}")
    return ", ".join(found)


def torch_libraries(config: str) -> str:
    """MKL and oneDNN with their versions, or the BLAS that `torch.__config__.show()` names."""
    patterns = {"MKL": r"Math Kernel Library Version ([\w.]+)", "oneDNN": r"MKL-DNN v([\w.]+)"}
    named = [f"{name} {match[1]}" for name, pattern in patterns.items() if (match := re.search(pattern, config))]
    other = re.search(r"BLAS_INFO=(\w+)", config)
    return " and ".join(named) or f"BLAS {other[1] if other else 'unknown'}"


def _processor_flags() -> list[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])


def cpu_model() -> str:
    """The processor's name as its maker writes it, as far as the system tells."""
    if sys.platform == "darwin":
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        return asked.stdout.strip() or platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
