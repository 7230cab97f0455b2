"""mqlog/_engine.pyi says what mqlog._engine is: the same names, the same parameters."""

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

STUB = ast.parse((Path(__file__).parents[2] / "mqlog" / "_engine.pyi").read_text())

Definition = ast.FunctionDef | ast.ClassDef

# Names that a stub needs and the runtime has no use for.
ONLY_IN_STUB = {"Out"}
# What every class has, said or not.
INHERITED = {"__init__", "__class_getitem__"}


@pytest.fixture(scope="module")
def runtime() -> ModuleType:
    return importlib.import_module("mqlog._engine")


def definitions(body: list[ast.stmt]) -> dict[str, Definition]:
    return {node.name: node for node in body if isinstance(node, Definition)}


def attributes(node: ast.ClassDef) -> set[str]:
    return {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def is_property(node: Definition) -> bool:
    names = {ast.unparse(decorator) for decorator in node.decorator_list}
    return "property" in names


CLASSES = {n: d for n, d in definitions(STUB.body).items() if isinstance(d, ast.ClassDef)}
FUNCTIONS = {n: d for n, d in definitions(STUB.body).items() if isinstance(d, ast.FunctionDef)}


def public(names: Any) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def made_here(value: object, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def test_the_stub_has_exactly_the_names_of_the_module(runtime: ModuleType) -> None:
    here = {name for name, value in vars(runtime).items() if made_here(value, runtime)}
    assert public(here) == public({*CLASSES, *FUNCTIONS} - ONLY_IN_STUB)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_exactly_the_members_of_its_stub(runtime: ModuleType, name: str) -> None:
    cls = getattr(runtime, name)
    if issubclass(cls, tuple):
        assert list(cls._fields) == [
            item.target.id
            for item in CLASSES[name].body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        ]
        return
    said = {*definitions(CLASSES[name].body), *attributes(CLASSES[name])} - INHERITED
    missing = {member for member in said if not hasattr(cls, member)}
    assert missing == set()
    assert public(vars(cls)) == public(said)


def parameters_of_stub(node: ast.FunctionDef) -> list[tuple[str, str, bool]]:
    taken = node.args
    positional = [*taken.posonlyargs, *taken.args]
    defaults = len(positional) - len(taken.defaults)
    found = []
    for i, argument in enumerate(positional):
        kind = "POSITIONAL_ONLY" if i < len(taken.posonlyargs) else "POSITIONAL_OR_KEYWORD"
        found.append((argument.arg, kind, i >= defaults))
    for argument, default in zip(taken.kwonlyargs, taken.kw_defaults, strict=True):
        found.append((argument.arg, "KEYWORD_ONLY", default is not None))
    return found


def parameters_of(function: Any) -> list[tuple[str, str, bool]] | None:
    """None: it does not tell."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return None
    return [
        (p.name, p.kind.name, p.default is not inspect.Parameter.empty)
        for p in signature.parameters.values()
    ]


def without_self(parameters: list[tuple[str, str, bool]]) -> list[tuple[str, str, bool]]:
    return [p for p in parameters if p[0] not in ("self", "cls")]


METHODS = [
    (cls, name)
    for cls, node in CLASSES.items()
    for name, member in definitions(node.body).items()
    if isinstance(member, ast.FunctionDef) and not is_property(member) and name not in INHERITED
]


def is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


@pytest.mark.parametrize(("cls", "name"), METHODS)
def test_a_method_takes_what_its_stub_says(runtime: ModuleType, cls: str, name: str) -> None:
    member = definitions(CLASSES[cls].body)[name]
    assert isinstance(member, ast.FunctionDef)
    real = parameters_of(getattr(getattr(runtime, cls), name))
    if real is None or is_special(name):  # slots of the type have names of the interpreter's
        return
    assert without_self(real) == without_self(parameters_of_stub(member))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_its_stub_says(runtime: ModuleType, name: str) -> None:
    real = parameters_of(getattr(runtime, name))
    assert real is None or real == parameters_of_stub(FUNCTIONS[name])


def test_most_signatures_are_told(runtime: ModuleType) -> None:
    told = [
        name
        for cls, name in METHODS
        if not is_special(name) and parameters_of(getattr(getattr(runtime, cls), name)) is not None
    ]
    assert len(told) > len([name for _, name in METHODS if not is_special(name)]) // 2
