"""Contents and metadata of every wheel; the slow campaign installs each alone and runs its suite (tools/wheels.py)."""

import re
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest

from .tools import load_tool

tool = load_tool("wheels")
PROJECTS = tool.projects()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    built = tool.build(tmp_path_factory.mktemp("wheels"))
    assert built.keys() == PROJECTS.keys()
    return built


@pytest.mark.parametrize("name", PROJECTS)
def test_a_wheel_holds_its_sources_its_type_information_and_nothing_else(name: str, wheels: dict[str, Path]) -> None:
    with ZipFile(wheels[name]) as archive:
        held = {file for file in archive.namelist() if not file.endswith("/")}
    package, sources = name.replace("-", "_"), PROJECTS[name] / "src"
    kept = {
        path.relative_to(sources).as_posix() for path in sources.rglob("*") if path.suffix in (".py", ".txt", ".typed")
    }
    assert {file for file in held if ".dist-info/" not in file} == kept
    assert {f"{package}/py.typed", f"{package}/__init__.py"} <= held
    assert not [file for file in held if re.search(r"(^|/)(test_|tests/|conftest)", file)]


@pytest.mark.parametrize("name", tool.projects("packages"))
def test_a_wheel_of_a_package_carries_the_license(name: str, wheels: dict[str, Path]) -> None:
    with ZipFile(wheels[name]) as archive:
        [file] = [file for file in archive.namelist() if file.endswith(".dist-info/licenses/LICENSE")]
        assert archive.read(file) == (tool.ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("name", PROJECTS)
def test_a_wheel_asks_for_what_its_project_names_and_siblings_at_their_version(
    name: str, wheels: dict[str, Path]
) -> None:
    about, project = tool.metadata(wheels[name]), tool.pyproject(PROJECTS[name])["project"]
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    asked = [line.split(" ; ")[0] for line in about.get_all("Requires-Dist", [])]
    assert sorted(asked) == sorted(re.split(" ?; ", line)[0] for line in [*project["dependencies"], *extras])
    assert about["Requires-Python"] == ">=3.11"
    siblings = {line: other for line in asked for other in wheels if re.match(rf"{other}(?![\w-])", line)}
    assert all(line.endswith(f"=={tool.metadata(wheels[other])['Version']}") for line, other in siblings.items())


@pytest.mark.parametrize("name", PROJECTS)
def test_a_wheel_has_the_programs_and_the_backend_of_its_project(name: str, wheels: dict[str, Path]) -> None:
    project, found = tool.pyproject(PROJECTS[name])["project"], ConfigParser(delimiters="=")
    found.optionxform = str  # type: ignore[assignment,method-assign]
    with ZipFile(wheels[name]) as archive:
        found.read_string("".join(archive.read(file).decode() for file in archive.namelist() if "entry_points" in file))
    groups = {
        **project.get("entry-points", {}),
        **({"console_scripts": project["scripts"]} if "scripts" in project else {}),
    }
    assert {group: dict(found[group]) for group in found.sections()} == groups


@pytest.mark.slow
@pytest.mark.parametrize("name", tool.projects("packages"))
def test_a_package_passes_its_own_suite_from_its_wheel_alone(
    name: str, wheels: dict[str, Path], tmp_path: Path
) -> None:
    tool.check(name, wheels, tmp_path)
