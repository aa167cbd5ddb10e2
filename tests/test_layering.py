"""Imports run one way, and each engine library is known to its own layer only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Each layer may import itself and those before it. `_version` and the package's own __init__ stand outside.
LAYERS = (
    "errors",
    "quant",
    "ir",
    "targets",
    "analysis",
    "calibration",
    "backends",
    "pipeline",
    "passes",
    "report",
    "api",
    "integrations",
    "cli",
)
# Library → layers that may import it.
OWNERS = {
    "onnx_graphsurgeon": {"ir"},
    "onnxruntime": {"calibration", "backends"},
    "openvino": {"backends"},
    "olive": {"integrations"},
}
# The public package: it names what api, targets and passes offer, lazily.
FACADES = {"__init__", "__main__", "_version"}


def sources() -> list[tuple[str, Path]]:
    """(layer, file) of every module of the compiler; passes/ is read once, under its real path."""
    found = [(p.relative_to(ROOT / "graphopt"), p) for p in sorted((ROOT / "graphopt").rglob("*.py"))]
    in_package = [(r.parts[0].removesuffix(".py"), p) for r, p in found if r.parts[0] != "passes"]
    return [*in_package, *(("passes", p) for p in sorted((ROOT / "passes").rglob("*.py")))]


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(module, line) of every import, inside functions too; `if TYPE_CHECKING:` blocks don't run and are left out."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield str(node.module), node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def layer_of(module: str) -> str | None:
    """The layer that a graphopt module belongs to; None for the package itself and for other packages."""
    parts = module.split(".")
    if parts[0] != "graphopt" or len(parts) == 1 or parts[1] not in LAYERS:
        return None
    return parts[1]


def violations(layer: str, tree: ast.Module) -> list[str]:
    """What `tree`, a module of `layer`, imports though it may not."""
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    found: set[str] = set()
    for module, line in imports(tree):
        target = layer_of(module)
        if target is not None and target not in allowed:
            found.add(f"line {line}: {layer} imports {target}")
        owners = OWNERS.get(module.split(".")[0])
        if owners is not None and layer not in owners:
            found.add(f"line {line}: {layer} imports {module.split('.')[0]}")
    return sorted(found)


def test_every_module_is_in_a_layer() -> None:
    assert {layer for layer, _ in sources()} <= {*LAYERS, *FACADES}


@pytest.mark.parametrize(
    ("layer", "path"), [pytest.param(n, p, id=str(p.relative_to(ROOT))) for n, p in sources() if n in LAYERS]
)
def test_imports_run_one_way(layer: str, path: Path) -> None:
    assert violations(layer, ast.parse(path.read_text(encoding="utf-8"))) == []


def test_errors_imports_nothing_of_ours() -> None:
    tree = ast.parse((ROOT / "graphopt" / "errors.py").read_text(encoding="utf-8"))
    assert [m for m, _ in imports(tree) if m.startswith("graphopt")] == []


@pytest.mark.parametrize(
    ("layer", "source", "caught"),
    [
        ("ir", "from graphopt.passes import x", True),
        ("ir", "import graphopt.cli.main", True),
        ("ir", "from graphopt import api", True),
        ("ir", "def f():\n    from graphopt.pipeline import Pass", True),
        ("ir", "import onnxruntime", True),
        ("passes", "import onnx_graphsurgeon as gs", True),
        ("ir", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from graphopt.cli import x", False),
        ("ir", "from graphopt.quant import Range", False),
        ("backends", "import onnxruntime", False),
    ],
)
def test_the_rule_catches_what_it_should(layer: str, source: str, caught: bool) -> None:
    assert bool(violations(layer, ast.parse(source))) == caught
