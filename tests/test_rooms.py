"""Which room may import which: gazeqwen <- stream <- benchmarks (DESIGN 2), read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "gazeqwen": {"stream", "benchmarks", "app", "tests"},
    "stream": {"benchmarks", "app", "tests"},
    "benchmarks": {"app", "tests"},
}
# The two named exceptions, both inside functions: the command line joins the rooms, `GazeQwen.stream` is a short cut.
COMMAND_LINE = "gazeqwen/cli.py"
SHORT_CUT = ("gazeqwen/model.py", "stream")


def imports(tree: ast.AST, function: str | None = None) -> Iterator[tuple[str, str | None]]:
    """(room, innermost function it is imported in, or "TYPE_CHECKING" for types only) of every import."""
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            inside = node.test.id
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0], function
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value).split(".")[0], function
        yield from imports(node, inside)


def test_the_reader_of_imports_sees_every_kind() -> None:
    source = (
        "import stream.video as v\nfrom stream import x\nfrom . import y\n"
        "def f():\n    import benchmarks\n    if True:\n        import_module('app.page')\n"
        "class C:\n    def g(self):\n        from stream.session import S\n"
        "if TYPE_CHECKING:\n    import tests\n"
    )
    found = sorted(imports(ast.parse(source)), key=str)
    assert found == [
        ("app", "f"),
        ("benchmarks", "f"),
        ("stream", "g"),
        ("stream", None),
        ("stream", None),
        ("tests", "TYPE_CHECKING"),
    ]


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_arrows_point_one_way(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = []
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        for imported, function in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if imported not in FORBIDDEN[room]:
                continue
            allowed = function is not None and (name == COMMAND_LINE or (name, function) == SHORT_CUT)
            if not allowed or imported == "tests":
                wrong.append(f"{name}: {imported} in {function or 'the module'}")
    assert wrong == []


def test_importing_the_package_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import gazeqwen, sys; print([m for m in ('torch', 'transformers', 'stream') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
