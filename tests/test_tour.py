"""docs/tour.md: what it names is there, about as much as it says, and its answers are right."""

import ast
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tour.md"
TEXT = PAGE.read_text(encoding="utf-8")
ANSWERS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
READ = [
    ((PAGE.parent / link).resolve(), link, re.findall(r"`(.+?)`", names))
    for link, names in re.findall(r"^\| \[.*?\]\((\S+)\): (.*?) \| ", TEXT, re.MULTILINE)
]
"""A file, as it is linked, and the names to be read in it."""


def definitions(path: Path) -> dict[str, range]:
    """The functions, classes and methods of a file, the latter as Class.method and as method: name -> lines."""
    found: dict[str, range] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef):
                found[f"{node.name}.{method.name}"] = range(method.lineno, (method.end_lineno or method.lineno) + 1)
    return found


@pytest.mark.parametrize(("path", "link", "names"), READ, ids=[link.split("/src/")[1] for _, link, _ in READ])
def test_what_is_to_be_read_is_there(path: Path, link: str, names: list[str]) -> None:
    assert names
    assert not set(names) - set(definitions(path)), link


def test_every_stop_has_something_to_read_and_one_exercise_with_its_answer() -> None:
    stops = re.split(r"^## \d+\. ", TEXT, flags=re.MULTILINE)[1:]
    assert len(stops) == len(ANSWERS)
    for stop in stops:
        assert re.search(r"^\| \[", stop, re.MULTILINE), stop[:20]
        assert stop.count("**Exercise.**") == stop.count("```python") == stop.count("</details>") == 1


def test_it_is_about_as_long_as_it_says() -> None:
    [said] = re.findall(r"about ([\d,]+) lines", TEXT.replace("\n", " "))
    lines = {(path, line) for path, _, names in READ for name in names for line in definitions(path)[name]}
    assert 0.9 < len(lines) / int(said.replace(",", "")) < 1.1, len(lines)


@pytest.mark.parametrize("answer", ANSWERS, ids=range(1, len(ANSWERS) + 1))
def test_an_answer_runs(answer: str) -> None:
    if "torch" in answer:
        pytest.importorskip("torch")
    exec(compile(answer, "tour.md", "exec"), {"__name__": "answer"})
