"""Keep requirements.txt equal to what the pyproject.toml files resolve to.

    python tools/requirements.py write     resolve, then write requirements.txt
    python tools/requirements.py check     resolve, then compare; exit 1 on a difference

Flow: every pyproject.toml of the workspace -> a temporary folder -> `uv lock` -> `uv export` -> requirements.txt.

The lock is made fresh, so an old uv.lock in the tree cannot hide a change, and `exclude-newer` in the root
pyproject.toml makes it the same on every machine and day. The export has every package, dependency group and extra,
for every platform, with hashes and without addresses.

Limits: needs the network (or uv's cache), and members whose metadata is static, because no source code is copied.
Index settings of the machine (UV_INDEX and the like) are honoured: a mirror that serves other files gives other hashes.
"""

import argparse
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements.txt"
REWRITE = "uv run python tools/requirements.py write"
MAX_DIFF_LINES = 40
EXPORT_FLAGS = ["--all-packages", "--all-groups", "--all-extras", "--no-emit-workspace", "--no-annotate", "--no-header"]

PLATFORMS = {"linux": "posix", "darwin": "posix", "win32": "nt", "freebsd": "posix"}
MACHINES = ("x86_64", "aarch64", "arm64", "AMD64", "riscv64")
PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15", "3.16")
ENVIRONMENTS = [
    {
        "sys_platform": platform, "os_name": os_name, "platform_machine": machine,
        "python_version": python, "python_full_version": f"{python}.4",
    }
    for platform, os_name in PLATFORMS.items() for machine in MACHINES for python in PYTHONS
]  # fmt: skip


def uv_command() -> list[str]:
    """Return the words that start uv: the variable UV (set by `uv run`), else uv on PATH, else this Python's module."""
    found = os.environ.get("UV") or shutil.which("uv")
    return [found] if found else [sys.executable, "-m", "uv"]


def workspace_pyprojects(root: Path) -> list[Path]:
    """Return the pyproject.toml of the root and of each workspace member, sorted, relative to `root`."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = [".", *settings["tool"]["uv"]["workspace"]["members"]]
    found = {path.relative_to(root) for pattern in patterns for path in root.glob(f"{pattern}/pyproject.toml")}
    return sorted(found)


def resolve(root: Path) -> str:
    """Return the text of requirements.txt that a fresh lock of the workspace at `root` gives.

    Raises subprocess.CalledProcessError, with uv's message in `stderr`, where uv finds no resolution.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for path in workspace_pyprojects(root):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, copy / path)

        def uv(*arguments: str) -> str:
            # This Python, so that uv neither searches for one nor downloads one; the lock itself is for all versions.
            command = [*uv_command(), *arguments, "--python", sys.executable]
            done = subprocess.run(command, cwd=copy, check=True, capture_output=True, encoding="utf-8")
            return done.stdout

        uv("lock")
        return uv("export", "--frozen", "--format", "requirements-txt", *EXPORT_FLAGS)


def meaning(text: str) -> list[tuple[str, tuple[bool, ...]]]:
    """Return each line of a requirements file without its marker, and in which of many environments that holds.

    Versions of uv spell one marker in different ways.
    """
    lines = []
    for line in text.splitlines():
        requirement, _, marker = line.removesuffix(" \\").partition(" ; ")
        holds = Marker(marker) if marker else None
        lines.append((requirement, tuple(holds is None or holds.evaluate(place) for place in ENVIRONMENTS)))
    return lines


def short_diff(committed: str, fresh: str) -> str:
    """Return the unified diff from `committed` to `fresh`, hashes counted, not shown; empty where they are equal."""
    names = ("requirements.txt (committed)", "requirements.txt (fresh lock)")
    lines = list(difflib.unified_diff(committed.splitlines(), fresh.splitlines(), *names, lineterm="", n=0))
    shown = [line for line in lines if "--hash=" not in line]
    hashes = len(lines) - len(shown)
    if len(shown) > MAX_DIFF_LINES:
        shown[MAX_DIFF_LINES:] = [f"... and {len(shown) - MAX_DIFF_LINES} more lines"]
    if hashes:
        shown.append(f"... and {hashes} lines of hashes")
    return "\n".join(shown)


def main() -> int:
    """Run the command line; return the exit status: 0 equal or written, 1 different, 2 not resolved."""
    parser = argparse.ArgumentParser(description="Keep requirements.txt equal to a fresh lock of the workspace.")
    parser.add_argument("command", choices=["write", "check"])
    command = parser.parse_args().command

    try:
        fresh = resolve(ROOT)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"uv could not resolve the workspace:\n{getattr(error, 'stderr', None) or error}", file=sys.stderr)
        return 2

    if command == "write":
        REQUIREMENTS.write_text(fresh, encoding="utf-8", newline="\n")
        return 0

    committed = REQUIREMENTS.read_text(encoding="utf-8") if REQUIREMENTS.exists() else ""
    if meaning(committed) != meaning(fresh):
        print(short_diff(committed, fresh))
        print(f"requirements.txt is not what the pyproject.toml files resolve to; run: {REWRITE}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
