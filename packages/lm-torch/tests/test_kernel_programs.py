"""Faults of the Triton programs that no interpreter shows, found in their source."""

import ast
from pathlib import Path

import lm_torch

PROGRAMS = sorted(Path(lm_torch.__file__).parent.glob("kernels/programs/*.py"))
FUNCTIONS = {
    node.name: node
    for path in PROGRAMS
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef) and "triton.jit" in ast.unparse(node.decorator_list[0])
}


def arguments(function: ast.FunctionDef) -> list[str]:
    """Those of which Triton may make numbers of Python, where they are launched from outside."""
    return [arg.arg for arg in function.args.args if arg.annotation is None]


def converted(function: ast.FunctionDef, of: set[str]) -> set[str]:
    """Names of arguments of which `to` is called, here or where they are passed on."""
    found = set()
    for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "to" and isinstance(call.func.value, ast.Name):
            found.add(call.func.value.id)
        called = FUNCTIONS.get(call.func.id) if isinstance(call.func, ast.Name) else None
        if called and called is not function:
            passed = {
                inner: given.id
                for inner, given in zip(arguments(called), call.args, strict=False)
                if isinstance(given, ast.Name) and given.id in of
            }
            found |= {passed[inner] for inner in converted(called, set(passed)) if inner in passed}
    return found & of


def test_no_argument_that_may_be_1_is_converted_by_its_method() -> None:
    """Triton makes an integer argument that is 1 a Python number, which has no `to`; the interpreter does not."""
    launched = [function for function in FUNCTIONS.values() if "program_id" in ast.unparse(function)]
    assert {"attention_bits", "forward", "product", "rows_linear"} <= {function.name for function in launched}
    assert {name: found for f in launched for name in [f.name] if (found := converted(f, set(arguments(f))))} == {}
