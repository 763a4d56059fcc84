"""The notebooks of apps: stored without output, and their cells run in order, each in a folder of its own.

The kernel is a process that is reached through a socket in that folder, and nothing listens on a port.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

APPS = Path(__file__).resolve().parents[1] / "apps"
Cells = list[dict[str, Any]]


@dataclass(frozen=True)
class Notebook:
    """A notebook of an app."""

    path: Path
    pictures: int
    fewer: tuple[str, str] = ("", "")
    """What is written in its place where it runs here, so that it takes fewer steps."""

    @property
    def cells(self) -> Cells:
        cells: Cells = json.loads(self.path.read_text(encoding="utf-8"))["cells"]
        return cells

    @property
    def code(self) -> list[str]:
        return ["".join(cell["source"]) for cell in self.cells if cell["cell_type"] == "code"]


@dataclass(frozen=True)
class Executed:
    """A notebook that ran: the folder in which it did, and its code cells with their output."""

    folder: Path
    cells: Cells

    def printed(self, stream: str, first: int = 0) -> str:
        outputs = [output for cell in self.cells[first:] for output in cell["outputs"]]
        return "".join(text for o in outputs if o.get("name") == stream for text in o["text"])


Run = Callable[[Notebook], Executed]
TUTORIAL = Notebook(
    APPS / "mini_gpt" / "MiniTransformer_BPE_Tutorial.ipynb",
    pictures=6,
    fewer=(r"\"max_steps\": 400", r"\"max_steps\": 60"),
)
EXPERIMENTS = Notebook(APPS / "gpt" / "transformer_experiments.ipynb", pictures=10)
POLICY_GRADIENTS = Notebook(APPS / "rlvr" / "rlvr.ipynb", pictures=6)
NOTEBOOKS = [TUTORIAL, EXPERIMENTS, POLICY_GRADIENTS]


STARTUP = """
import warnings

for kind in (UserWarning, RuntimeWarning):
    warnings.simplefilter("error", kind)
"""
RUN = """
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

notebook = nbformat.read("fewer_steps.ipynb", as_version=4)
# A socket's name is short by law: it is relative to this folder, which is the kernel's too.
manager = AsyncKernelManager(kernel_name="python3", transport="ipc", connection_file="kernel.json")
NotebookClient(notebook, km=manager, timeout=600, coalesce_streams=True).execute()
nbformat.write(notebook, "executed.ipynb")
"""


def _execute(notebook: Notebook, folder: Path) -> Executed:
    """Run in a process of its own, because jupyter's libraries warn of one another and leave sockets open."""
    for library in ("torch", "tokenizers", "sentencepiece", "nbclient", "ipykernel"):
        pytest.importorskip(library)
    stored = notebook.path.read_text(encoding="utf-8")
    assert notebook.fewer[0] in stored
    (folder / "fewer_steps.ipynb").write_text(stored.replace(*notebook.fewer), encoding="utf-8")
    homes = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    for home in homes.values():
        Path(home).mkdir()
    startup = folder / "IPYTHONDIR" / "profile_default" / "startup"  # run by the kernel before the first cell
    startup.mkdir(parents=True)
    (startup / "warnings_are_errors.py").write_text(STARTUP)
    words = [sys.executable, "-c", RUN]
    done = subprocess.run(words, cwd=folder, env=os.environ | homes, capture_output=True, encoding="utf-8", timeout=900)
    assert done.returncode == 0, done.stderr
    cells = json.loads((folder / "executed.ipynb").read_text(encoding="utf-8"))["cells"]
    return Executed(folder, [cell for cell in cells if cell["cell_type"] == "code"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a notebook, once."""
    return cache(lambda notebook: _execute(notebook, tmp_path_factory.mktemp(notebook.path.stem[:4])))


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda notebook: notebook.path.stem)
def notebook(request: pytest.FixtureRequest) -> Notebook:
    found: Notebook = request.param
    return found


def test_every_notebook_is_tested() -> None:
    assert sorted(APPS.rglob("*.ipynb")) == sorted(notebook.path for notebook in NOTEBOOKS)


def test_it_is_stored_as_jupyter_writes_it_without_output(notebook: Notebook) -> None:
    nbformat = pytest.importorskip("nbformat")
    read = nbformat.read(notebook.path, as_version=4)
    nbformat.validate(read)
    assert nbformat.writes(read) + "\n" == notebook.path.read_text(encoding="utf-8")
    assert set(read.metadata) == {"kernelspec", "language_info"}
    assert read.metadata.language_info == {"name": "python"}
    for cell in read.cells:
        assert not cell.metadata
        assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)


def test_its_cells_are_short_and_name_no_path_of_a_machine(notebook: Notebook) -> None:
    assert max(len(source.splitlines()) for source in notebook.code) <= 15
    assert not re.search(r"/(home|Users|root|work|tmp)/", notebook.path.read_text(encoding="utf-8"))


def test_its_links_lead_somewhere(notebook: Notebook) -> None:
    text = "".join("".join(cell["source"]) for cell in notebook.cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links
    assert [link for link in links if not (notebook.path.parent / link).exists()] == []


def test_its_cells_run_and_draw_a_picture_wherever_they_say_so(notebook: Notebook, run: Run) -> None:
    executed, code = run(notebook), notebook.code
    assert [cell["execution_count"] for cell in executed.cells] == list(range(1, len(code) + 1))
    pictures = [any("image/png" in o.get("data", {}) for o in cell["outputs"]) for cell in executed.cells]
    assert pictures == [bool(re.search(r"^(plt\.show|draw_merges)\(", source, re.MULTILINE)) for source in code]
    assert sum(pictures) == notebook.pictures


def test_it_prints_no_error(notebook: Notebook, run: Run) -> None:
    assert run(notebook).printed("stderr") == ""


def test_the_tokenizers_give_the_text_back_but_for_that_of_the_tutorials(run: Run) -> None:
    executed = run(TUTORIAL)
    output = executed.printed("stdout")
    for kind in ("ours", "hf", "sentencepiece"):
        assert re.search(rf"^{kind} +1,000 +\d\.\d\d +yes$", output, re.MULTILINE)
    assert "async def wait ( caf<unk> )" in output


def test_the_model_learns_and_continues_the_prompt(run: Run) -> None:
    executed = run(TUTORIAL)
    losses = _losses(executed.folder / "runs" / "mini_gpt")
    assert losses[-1] < losses[0] - 1
    assert "\n    async def" in executed.printed("stdout", first=-1)


def test_the_experiments_show_what_their_run_recorded(run: Run) -> None:
    """The loss falls, the checkpoints of every 20 steps are kept, and bits per token are split over the bytes."""
    executed = run(EXPERIMENTS)
    losses = _losses(executed.folder / "runs" / "gpt_experiments" / "training")
    assert losses[-1] < losses[0] - 1
    output = executed.printed("stdout")
    assert "checkpoints of steps 20 40 60 80 100" in output
    figures = {key: float(value) for key, value in re.findall(r"^(bits_per_\w+) +([\d.]+)$", output, re.MULTILINE)}
    assert f"{figures['bits_per_token']:.3f} bits a token" in output
    assert f"= {figures['bits_per_byte']:.3f} bits a byte" in output
    assert re.search(r"^clip rate: \d+%", output, re.MULTILINE)


def test_the_length_bias_of_grpo_is_measured(run: Run) -> None:
    """Among wrong answers that are equally likely at first, its training prefers the long ones; nobody else's does."""
    [said] = re.findall(r"^\{'grpo'.*$", run(POLICY_GRADIENTS).printed("stdout"), re.MULTILINE)
    shares = {name: float(share) for name, share in re.findall(r"'(\w+)': ([\d.]+)", said)}
    assert shares["grpo"] > 0.75
    assert shares["rloo"] == pytest.approx(0.5, abs=0.1)
    assert shares["dr_grpo"] == pytest.approx(0.5, abs=0.1)


def _losses(runs: Path) -> list[float]:
    [log] = runs.glob("*/metrics.jsonl")
    return [r["loss_nats"] for r in map(json.loads, log.read_text().splitlines()) if r["kind"] == "eval"]
