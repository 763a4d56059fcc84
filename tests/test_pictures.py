"""The pictures of README.md are what tools/pictures.py makes of this repository."""

import json
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from lm_core.report import write_report

from .tools import load_tool

REPOSITORY = Path(__file__).resolve().parents[1]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    return load_tool("pictures")


@pytest.fixture
def page(tmp_path: Path, drawn: None) -> str:
    folder = tmp_path / "a<b"
    folder.mkdir()
    values = {"loss_nats": 2.5, "bits_per_char": 3.6, "grad_norm": 1.0, "lr": 0.1}
    records = [{"kind": kind, "step": step, **values} for step in (1, 20) for kind in ("train", "eval")]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    return write_report(folder).read_text(encoding="utf-8")


def test_the_picture_of_the_flow_is_up_to_date(pictures: ModuleType) -> None:
    assert (REPOSITORY / "docs" / "pictures" / "flow.svg").read_text(encoding="utf-8") == pictures.flow()


def test_what_the_flow_names_is_there(pictures: ModuleType) -> None:
    for *_, where in pictures.BOXES.values():
        for name in where.split(", "):
            path = name.replace(".", "/")
            backends = [f"packages/lm-{backend}/src/lm_{backend}/{path}*" for backend in ("torch", "mlx")]
            is_module = all(list(REPOSITORY.glob(pattern)) for pattern in backends)
            is_output = name in ("metrics.jsonl", "safetensors", "report.html", "samples.txt")
            assert is_module or is_output or list(REPOSITORY.glob(f"packages/*/src/{path}*")), name


@pytest.mark.parametrize("path", sorted((REPOSITORY / "docs" / "pictures").iterdir()), ids=lambda path: path.name)
def test_a_picture_is_small_and_well_formed(path: Path) -> None:
    assert path.stat().st_size < 200_000
    assert ElementTree.parse(path).getroot().tag == f"{SVG}svg"


def test_a_report_page_becomes_a_picture_with_its_summary_and_figures(pictures: ModuleType, page: str) -> None:
    root = ElementTree.fromstring(pictures.report(page))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"Run a<b", "validation, best", "2.5000", "3.6000", "Loss", "Learning rate", "Gradient norm"} <= set(texts)
    assert len(root.findall(f"{SVG}svg")) == 3


def test_the_report_is_of_the_quick_start(pictures: ModuleType) -> None:
    assert pictures.quick_start()[:3] == ["apps/testbed_d", "--steps", "500"]
