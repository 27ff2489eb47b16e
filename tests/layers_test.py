"""Imports run downward only; the map is the one in docs/design.md."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jopd"

LAYERS = (
    {"types"},
    {
        "divergences",
        "estimators",
        "sampling",
        "buffer",
        "chunks",
        "packing",
        "panel",
        "gate",
        "groups",
        "stops",
    },
    {"signals", "weights", "objective", "reports", "measures", "methods"},
    {
        "models.decoder",
        "models.hf",
        "models.quantize",
        "models.rope",
        "models",
        "sharding",
        "rollout",
        "watch",
        "engine",
        "step",
        "tasks",
        "sources",
        "data",
        "teachers",
        "vocabulary",
        "rewards",
        "similarity",
        "remote",
        "optimizer",
        "checkpoint",
    },
    {
        "statistics",
        "metrics",
        "layout",
        "collect",
        "audit",
        "peers",
        "leaks",
        "diagnostics",
        "evaluate",
        "workdir",
        "commandline",
        "console",
        "report",
        "report_page",
    },
    {
        "binding",
        "compared",
        "config",
        "validation",
        "validation_rollout",
        "reads",
        "inputs",
        "experiment",
        "stages",
        "control",
        "held",
        "observe",
        "ending",
        "train",
    },
    {"main", "generate"},
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
# What the core may import besides itself.
CORE = {"jax", "numpy", "optax", "chex", "functools", "typing", "collections", "math"}


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def layer(name: str) -> int:
    return LAYER_OF[name if name in LAYER_OF else name.split(".")[0]]


def imports(tree: ast.AST) -> set[str]:
    """Dotted names a module imports when it is loaded (not inside functions)."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def internal(name: str) -> str | None:
    """The module of this package that an imported dotted name lies in."""
    if not name.startswith("jopd."):
        return None
    rest = name.removeprefix("jopd.")
    while rest and not (
        (PACKAGE / rest.replace(".", "/")).is_dir()
        or (PACKAGE / (rest.replace(".", "/") + ".py")).exists()
    ):
        rest = rest.rpartition(".")[0]
    return rest or None


FILES = sorted(p for p in PACKAGE.rglob("*.py") if module_of(p))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_run_downward(path):
    name = module_of(path)
    for imported in imports(ast.parse(path.read_text())):
        other = internal(imported)
        if other is not None and other != name:
            assert layer(other) <= layer(name), (
                f"{name} (layer {layer(name)}) imports {other} (layer {layer(other)})"
            )


@pytest.mark.parametrize(
    "path", [p for p in FILES if layer(module_of(p)) <= 2], ids=module_of
)
def test_core_imports_arrays_only(path):
    for imported in imports(ast.parse(path.read_text())):
        assert imported.split(".")[0] in CORE | {"jopd"}, f"{path.name}: {imported}"


def test_no_import_cycle():
    graph = {
        module_of(path): {
            internal(i) for i in imports(ast.parse(path.read_text())) if internal(i)
        }
        - {module_of(path)}
        for path in FILES
    }
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, f"import cycle: {' -> '.join([*open_, name])}"
        if name in done:
            return
        open_.append(name)
        for other in graph.get(name, ()):
            visit(other)
        done.add(open_.pop())

    for name in graph:
        visit(name)


def test_the_check_can_fail():
    tree = ast.parse("from jopd import train\nimport jopd.objective\n")
    assert {internal(name) for name in imports(tree)} == {"train", "objective"}
    assert layer("train") > layer("objective")
