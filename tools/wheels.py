"""Hold every package to its wheel: built, installed alone in an empty environment, imported, typed, and tested there.

    python tools/wheels.py build FOLDER                      the wheels of all packages and apps
    python tools/wheels.py check [PACKAGE...] [--python 3.13]   each of packages/, or those that are named

Flow: uv build -> wheels -> an empty environment, with the wheels of the siblings it stands on and dependencies from the
index -> every module is imported -> mypy reads its types -> its own tests/, copied out of the repository, run there.

Siblings come from the wheels just built, never from an index, where their names are a stranger's. pytest takes more
flags from PYTEST_ADDOPTS. Needs the network, or uv's cache.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
OPTIONAL = {"lm_eval", "mlx", "pytest", "torch", "triton"}
"""Besides the extras, what modules need that are imported only where it is installed."""
_IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    try:
        importlib.import_module(module.name)
    except Exception as error:
        missing = error if isinstance(error, ModuleNotFoundError) else error.__context__
        if getattr(missing, "name", "?").split(".")[0] not in sys.argv[2:]:
            raise
"""


def projects(*folders: str) -> dict[str, Path]:
    """Return name -> folder of the projects below `folders` of the repository, all of them where none is named."""
    found = (
        path.parent for place in folders or ("packages", "apps") for path in ROOT.glob(f"{place}/*/pyproject.toml")
    )
    return {pyproject(folder)["project"]["name"]: folder for folder in sorted(found)}


def pyproject(folder: Path) -> dict[str, Any]:
    """Return what the pyproject.toml of a folder says."""
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def build(out: Path) -> dict[str, Path]:
    """Build the wheel of every project into `out`; return name -> wheel."""
    _run([*_uv(), "build", "--all-packages", "--wheel", "--quiet", "--out-dir", str(out)], ROOT)
    return {metadata(wheel)["Name"]: wheel for wheel in sorted(out.glob("*.whl"))}


def metadata(wheel: Path) -> Message:
    """Return the METADATA of a wheel."""
    with ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def requirements(wheel: Path, *, extras: bool = False) -> dict[str, str]:
    """Return name -> requirement of a wheel: those of its extras, or all others."""
    found = [line for line in metadata(wheel).get_all("Requires-Dist", []) if ("extra ==" in line) == extras]
    return {re.split(r"[^\w.-]", line)[0]: line for line in found}


def closure(name: str, wheels: Mapping[str, Path]) -> list[Path]:
    """Return the wheel of a project and those of the siblings that it stands on, through others too."""
    names = [name]
    for each in names:
        names += [needed for needed in requirements(wheels[each]) if needed in wheels and needed not in names]
    return [wheels[each] for each in names]


def check(name: str, wheels: Mapping[str, Path], folder: Path, python: str = sys.executable) -> None:
    """Install a package's wheel alone into an environment below `folder`, import it, type-check it, run its suite.

    Raises subprocess.CalledProcessError where a step fails; its output is on the terminal.
    """
    source, module = projects()[name], name.replace("-", "_")
    environment, work = folder / "environment", folder / "work"
    inside = str(environment / "bin" / "python")
    install = [*_uv(), "pip", "install", "--quiet", "--python", inside]
    install += ["--exclude-newer", tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["exclude-newer"]]

    folder.mkdir(parents=True, exist_ok=True)
    _run([*_uv(), "venv", "--quiet", "--python", python, str(environment)], folder)
    _run([*install, *map(str, closure(name, wheels))], folder)
    optional = OPTIONAL.union(*(requirements(wheel, extras=True) for wheel in wheels.values())) - wheels.keys()
    _run([inside, "-I", "-W", "error", "-c", _IMPORT_ALL, module, *optional], folder)
    (folder / "typed.py").write_text(f"import {module}\n")
    _run(
        [sys.executable, "-m", "mypy", "--python-executable", inside, "--follow-imports", "silent", "typed.py"], folder
    )

    shutil.copytree(source / "tests", work / source.relative_to(ROOT) / "tests")
    shutil.copytree(ROOT / "configs", work / "configs")
    for file in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / file, work)
    _run([*install, *pyproject(source)["dependency-groups"]["test"]], folder)
    _run([inside, "-m", "pytest", "-q", str(source.relative_to(ROOT))], work)


def _uv() -> list[str]:
    found = os.environ.get("UV") or shutil.which("uv")
    return [found] if found else [sys.executable, "-m", "uv"]


def _run(command: Sequence[str], folder: Path) -> None:
    """Run a command without what the environment of this process would add to its Python."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if k == "PYTEST_ADDOPTS" or not k.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV"))
    }
    subprocess.run(command, cwd=folder, env=kept, check=True)


def main() -> int:
    """Run the command line; return the exit status: 0 built or all sound, 1 something failed."""
    parser = argparse.ArgumentParser(description="Build the wheels, or check each package from its wheel alone.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build").add_argument("folder", type=Path)
    checked = commands.add_parser("check")
    checked.add_argument("packages", nargs="*", default=list(projects("packages")))
    checked.add_argument("--python", default=sys.executable, help="a version, or the path of an interpreter")
    flags = parser.parse_args()

    if flags.command == "build":
        build(flags.folder)
        return 0
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        wheels = build(Path(folder) / "wheels")
        for name in flags.packages:
            print(f"== {name}", flush=True)
            started = time.monotonic()
            try:
                check(name, wheels, Path(folder) / name, flags.python)
            except subprocess.CalledProcessError as error:
                failed.append(f"{name}: exit code {error.returncode} of {' '.join(error.cmd[:4])} ...")
            print(f"-- {name}: {time.monotonic() - started:.0f} s", flush=True)
    print("\n".join(failed) or "sound", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
