"""What no interpreter shows of the Triton programs, read from their source."""

import ast
from pathlib import Path

import pytest

import lm_torch

PROGRAMS = sorted(Path(lm_torch.__file__).parent.glob("kernels/programs/*.py"))


def launched(tree: ast.Module) -> dict[ast.FunctionDef, set[str]]:
    """Kernels, not the functions that kernels call, with the arguments that may become numbers of Python."""
    found = {}
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef) or "program_id" not in ast.unparse(function):
            continue
        decorators = " ".join(map(ast.unparse, function.decorator_list))
        names = {arg.arg for arg in function.args.args if arg.annotation is None}
        found[function] = {name for name in names if f"'{name}'" not in decorators}
    return found


def converted(function: ast.FunctionDef) -> set[str]:
    """Names of which `to` is called."""
    calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    attributes = (call for call in calls if isinstance(call, ast.Attribute) and call.attr == "to")
    return {each.value.id for each in attributes if isinstance(each.value, ast.Name)}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_no_argument_that_may_be_1_is_converted_by_its_method(path: Path) -> None:
    """Triton makes an integer argument that is 1 a Python number, which has no `to`; the interpreter does not."""
    for function, specialized in launched(ast.parse(path.read_text())).items():
        assert not converted(function) & specialized, function.name


def test_the_kernels_were_found() -> None:
    names = {function.name for path in PROGRAMS for function in launched(ast.parse(path.read_text()))}
    assert names >= {"attention_bits", "forward", "product", "rows_linear"}
