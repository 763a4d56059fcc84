"""Every package's README begins with an example, and all its examples run."""

import re
from pathlib import Path

import pytest

PACKAGES = sorted((Path(__file__).resolve().parents[1] / "packages").iterdir())
READMES = [package / "README.md" for package in PACKAGES if (package / "pyproject.toml").is_file()]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_it_begins_with_an_example_of_about_ten_lines(readme: Path) -> None:
    before, language, example, _ = re.split(r"```(\w+)\n(.*?)```", readme.read_text(), maxsplit=1, flags=re.DOTALL)
    assert language == "python"
    assert len(before.splitlines()) <= 6
    assert len([line for line in example.splitlines() if line and "import" not in line]) <= 12


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_its_examples_run(readme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for framework in {"lm-torch": ["torch"], "lm-mlx": ["lm_mlx"], "lm-pipeline": ["torch"]}.get(
        readme.parent.name, []
    ):
        pytest.importorskip(framework)
    monkeypatch.chdir(tmp_path)
    for example in re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL):
        exec(compile(example, str(readme), "exec"), {"__name__": "example"})
