"""What `import localllm` brings in, what it costs, and which way the package's own imports go."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import localllm
from localllm import _version

SOURCE = Path(localllm.__file__).parent

LAYERS: list[set[str]] = [
    {"", "__main__", "cli", "testing"},
    {"aio"},
    {"session", "manager"},
    {"asking"},
    {"saving"},
    {"conversation"},
    {"shortening", "ahead"},
    {"model", "stream", "batch_results"},
    {"batch"},
    {"turn", "course"},
    {"tools"},
    {"residency"},
    {"mailbox", "pump", "stages", "draft", "figures", "outcome"},
    {"backends"},
    {"chat", "models", "output", "saved"},
    {"engine"},
    {"types", "logprobs", "messages", "options", "errors", "_json", "_validators", "_version"},
]
"""The package's parts from the top down. A part imports from its own layer and those below; "" is `__init__`."""

VALUES_FOR_ALL = {"localllm", "localllm._version"}
"""What any module may import: the version."""


def test_importing_loads_nothing_heavy() -> None:
    """Neither asyncio nor any dependency, nor localllm's own modules beyond the version."""
    code = "import sys, json; import localllm; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=15)
    modules = json.loads(done.stdout)
    heavy = {"asyncio", "attr", "attrs", "jinja2", "httpx", "numpy", "llama_cpp", "logging", "rich", "typer"}
    assert heavy.isdisjoint(modules)
    ours = [name for name in modules if name.startswith("localllm")]
    assert ours == ["localllm", "localllm._version"]


def test_importing_is_quick() -> None:
    """Under 60 ms over an empty start, by the interpreter's own count, the best of three runs."""

    def cost_us() -> int:
        command = [sys.executable, "-X", "importtime", "-c", "import localllm"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=15)
        line = next(line for line in done.stderr.splitlines() if line.endswith(" localllm"))
        return int(line.split("|")[1])

    assert min(cost_us() for _ in range(3)) < 60_000


def test_using_the_plain_api_loads_neither_asyncio_nor_a_native_library() -> None:
    """A program with threads, on a backend of its own, pays for nothing else."""
    code = (
        "import sys\n"
        "from localllm import ChatSession, FakeBackend, ModelManager\n"
        "assert ChatSession(ModelManager(FakeBackend(['x'])).load('m')).send('hi').text == 'x'\n"
        "assert not {'asyncio', 'numpy', 'llama_cpp', 'httpx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=15)


@pytest.mark.parametrize("name", localllm.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    """Also by `from localllm import name`; what is a class or function says what it is."""
    value = getattr(localllm, name)
    if isinstance(value, type):
        assert value.__doc__


def test_exports_for_users_and_for_type_checkers_are_the_same() -> None:
    """`__all__`, the imports that a type checker sees, and those made at run time, in the same modules."""
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom) and node.module != "importlib"
        for alias in node.names
    }
    assert {*seen, "__version__"} == set(localllm.__all__)
    assert len(localllm.__all__) == len(set(localllm.__all__))
    assert vars(localllm)["_HOMES"] == seen


def test_all_public_names_of_types_options_and_errors_are_exported() -> None:
    """What a user may meet has a name in `localllm`."""
    public = {"types", "options", "errors"}
    for module in public:
        found = importlib.import_module(f"localllm.{module}")
        classes = {name for name, value in vars(found).items() if isinstance(value, type) and name[0].isupper()}
        own = {name for name in classes if vars(found)[name].__module__ == found.__name__}
        assert own <= set(localllm.__all__)


def test_dir_lists_the_names_and_others_do_not_exist() -> None:
    """For completion at a prompt; a typo is an AttributeError, and an ImportError where it is imported."""
    assert set(localllm.__all__) <= set(dir(localllm))
    with pytest.raises(AttributeError, match="module 'localllm' has no attribute 'ChatSesion'"):
        getattr(localllm, "ChatSesion")  # noqa: B009
    with pytest.raises(ImportError):
        exec("from localllm import ChatSesion")
    assert localllm.__version__ == _version.__version__


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.AST, *, nested: bool) -> Iterator[str]:
    """The modules of localllm that `tree` imports at run time; `nested`: those imported in functions, too."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                for otherwise in node.orelse:
                    yield from _imports(otherwise, nested=nested)
            case ast.ImportFrom(module=str(module), level=0) if module.split(".")[0] == "localllm":
                yield from (
                    f"{module}.{alias.name}" if _is_module(module, alias.name) else module for alias in node.names
                )
            case ast.Import():
                yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "localllm")
            case ast.FunctionDef() | ast.AsyncFunctionDef() if not nested:
                pass
            case _:
                yield from _imports(node, nested=nested)


def _is_module(package: str, name: str) -> bool:
    folder = SOURCE.parent.joinpath(*package.split("."))
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


def _layer(module: str) -> int:
    part = module.split(".")[1] if "." in module else ""
    found = [index for index, parts in enumerate(LAYERS) if part in parts]
    assert found, f"{module} is in no layer; add it to LAYERS"
    return found[0]


def test_imports_go_downwards() -> None:
    """`__init__`, cli → aio → session, manager → … → types, options, errors; in functions, too."""
    upwards = [
        f"{module} imports {imported}"
        for module, tree in _modules()
        for imported in _imports(tree, nested=True)
        if imported not in VALUES_FOR_ALL and _layer(imported) < _layer(module)
    ]
    assert upwards == []


def test_the_command_line_and_the_test_helpers_are_imported_by_nobody() -> None:
    """They are for people and for tests."""
    for module, tree in _modules():
        part = module.split(".")[1] if "." in module else ""
        for imported in _imports(tree, nested=True):
            for top in ("cli", "testing"):
                assert part in (top, "__main__") or not imported.startswith(f"localllm.{top}"), (
                    f"{module} imports {imported}"
                )


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Neither within a layer; imports in functions, which wait until they are needed, aside."""
    graph = {module: set(_imports(tree, nested=False)) - {module} for module, tree in _modules()}
    TopologicalSorter(graph).prepare()


def test_relative_imports_are_not_used() -> None:
    """So that the tests above see every import."""
    for module, tree in _modules():
        relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        assert not relative, module
