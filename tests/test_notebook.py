"""The notebook of apps/mini_gpt: stored without output, and its cells run in order, in a folder of their own.

The kernel is a process that is reached through a socket in that folder, and nothing listens on a port.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

APP = Path(__file__).resolve().parents[1] / "apps" / "mini_gpt"
NOTEBOOK = APP / "MiniTransformer_BPE_Tutorial.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
STEPS, FEWER = r"\"max_steps\": 400", r"\"max_steps\": 60"


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


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder in which the notebook ran, with fewer steps than its own, and its code cells with their output.

    In a process of its own, because jupyter's libraries warn of one another and leave sockets open.
    """
    for library in ("torch", "tokenizers", "sentencepiece", "nbclient", "ipykernel"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("notebook")
    stored = NOTEBOOK.read_text(encoding="utf-8")
    (folder / "fewer_steps.ipynb").write_text(stored.replace(STEPS, FEWER), encoding="utf-8")
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
    return folder, [cell for cell in cells if cell["cell_type"] == "code"]


def printed(cells: list[dict[str, Any]], stream: str) -> str:
    return "".join(text for cell in cells for o in cell["outputs"] if o.get("name") == stream for text in o["text"])


def test_it_is_stored_as_jupyter_writes_it_without_output() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert nbformat.writes(notebook) + "\n" == NOTEBOOK.read_text(encoding="utf-8")
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    for cell in notebook.cells:
        assert not cell.metadata
        assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)


def test_its_cells_are_short_and_name_no_path_of_a_machine() -> None:
    assert max(len(source.splitlines()) for source in CODE) <= 15
    assert not re.search(r"/(home|Users|root|work|tmp)/", NOTEBOOK.read_text(encoding="utf-8"))


def test_its_links_lead_somewhere() -> None:
    text = "".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links
    assert [link for link in links if not (APP / link).exists()] == []


def test_its_cells_run_and_draw_a_picture_wherever_they_say_so(executed: tuple[Path, list[dict[str, Any]]]) -> None:
    _, cells = executed
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(CODE) + 1))
    pictures = [any("image/png" in o.get("data", {}) for o in cell["outputs"]) for cell in cells]
    assert pictures == [bool(re.search(r"^(plt\.show|draw_merges)\(", source, re.MULTILINE)) for source in CODE]
    assert sum(pictures) == 6


def test_it_prints_no_error(executed: tuple[Path, list[dict[str, Any]]]) -> None:
    assert printed(executed[1], "stderr") == ""


def test_the_tokenizers_give_the_text_back_but_for_that_of_the_tutorials(
    executed: tuple[Path, list[dict[str, Any]]],
) -> None:
    output = printed(executed[1], "stdout")
    for kind in ("ours", "hf", "sentencepiece"):
        assert re.search(rf"^{kind} +1,000 +\d\.\d\d +yes$", output, re.MULTILINE)
    assert "async def wait ( caf<unk> )" in output


def test_the_model_learns_and_continues_the_prompt(executed: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, cells = executed
    [log] = folder.glob("runs/mini_gpt/*/metrics.jsonl")
    losses = [r["loss_nats"] for r in map(json.loads, log.read_text().splitlines()) if r["kind"] == "eval"]
    assert losses[-1] < losses[0] - 1
    assert "\n    async def" in printed(cells[-1:], "stdout")
