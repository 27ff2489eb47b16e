"""Imports run downward only: folder by folder, and file by file within a folder.

The map is the table under "Rooms" in docs/design.md and nowhere else: its rows are the
folders from the ground up, with what each may use and its files from the ground up.
"""

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jopd"
# What pure rooms may import besides the package.
CORE = {"jax", "numpy", "optax", "chex", "functools", "typing", "collections", "math"}
# Looks functions up by the names in a config.
CORE_OF = {"losses.binding": {"difflib", "importlib", "inspect"}}


class Room(NamedTuple):
    """A row of the table; ``files`` are its modules, the lowest first."""

    uses: set[str]
    files: list[str]
    pure: bool


def read_table(text: str) -> dict[str, Room]:
    """Rows ``| `room` | what | uses | files |``; "below" means every row above it."""
    rooms: dict[str, Room] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        name = cells and re.fullmatch(r"`([a-z]+)(?:/|\.py)?`", cells[0])
        if not name:
            continue
        words = set(re.findall(r"[a-z_]+", cells[2]))
        uses = set(rooms) if "below" in words else words & set(rooms)
        files = re.findall(r"`([a-z_]+)`", cells[3])
        rooms[name[1]] = Room(uses, files, "arrays" in words)
    return rooms


SECTION = (ROOT / "docs" / "design.md").read_text().split("## Rooms")[1]
ROOMS = read_table(SECTION.split("\n## ")[0])


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(name: str) -> str:
    """The folder of a module; files beside the folders are ``types`` or commands."""
    first = name.partition(".")[0]
    return first if first in ROOMS else "commands"


def imports(tree: ast.AST) -> set[str]:
    """Dotted names that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(tree):
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


def wrong_imports(name: str, tree: ast.AST) -> list[str]:
    """What ``name`` imports from a room, or a file of its own, that is not below it."""
    room, wrong = room_of(name), []
    others = {internal(imported) for imported in imports(tree)}
    for other in sorted(others - {None, name}):
        theirs = room_of(other)
        if theirs != room:
            if theirs not in ROOMS[room].uses:
                wrong.append(f"{name} imports {other}: {room} may not use {theirs}")
        elif (order := ROOMS[room].files) and "." in name:
            mine, its = name.partition(".")[2], other.partition(".")[2]
            if not its or order.index(its) >= order.index(mine):
                wrong.append(f"{name} imports {other}, which is not below it")
    return wrong


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if module_of(path)]


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_imports_run_downward(path):
    wrong = wrong_imports(module_of(path), ast.parse(path.read_text()))
    assert wrong == []


@pytest.mark.parametrize(
    "path", [p for p in MODULES if ROOMS[room_of(module_of(p))].pure], ids=module_of
)
def test_pure_rooms_import_arrays_only(path):
    known = CORE | {"jopd"} | CORE_OF.get(module_of(path), set())
    for imported in imports(ast.parse(path.read_text())):
        assert imported.split(".")[0] in known, f"{path.name}: {imported}"


def test_the_table_lists_every_file_once():
    for name, room in ROOMS.items():
        folder = PACKAGE / name
        if folder.is_dir():
            there = {path.stem for path in folder.glob("*.py")} - {"__init__"}
            assert sorted(room.files) == sorted(there), name
    beside = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", *ROOMS}
    assert sorted(ROOMS["commands"].files) == sorted(beside)


def test_the_tree_shows_every_file():
    tree = SECTION.split("```text")[1].split("```")[0]
    shown = {word for word in tree.split() if word.endswith(".py")}
    assert {path.name for path in MODULES if path.stem != "__init__"} <= shown


def test_rooms_say_what_they_are_for():
    for name in ROOMS:
        if (PACKAGE / name).is_dir():
            words = ast.get_docstring(
                ast.parse((PACKAGE / name / "__init__.py").read_text())
            )
            assert 3 <= len(words.splitlines()) <= 7, name
            assert "Uses" in words and re.search(r"\b[Aa] new\b", words), name


def test_files_stay_readable_in_one_go():
    assert not [p.name for p in FILES if len(p.read_text().splitlines()) > 400]


# That the checks can fail.


def planted(name: str, line: str) -> list[str]:
    """What is wrong with a module once ``line`` stands in it, also in a function."""
    source = (PACKAGE / (name.replace(".", "/") + ".py")).read_text()
    tree = ast.parse(f"{source}\ndef planted():\n    {line}\n")
    return wrong_imports(name, tree)


@pytest.mark.parametrize(
    "name, line",
    [
        ("losses.signals", "from jopd.training import loop"),
        ("losses.weights", "import jopd.data.rewards"),
        ("batches.collect", "from jopd.teachers.roles import Teacher"),
        ("reporting.metrics", "from jopd.setup import config"),
        ("types", "from jopd.losses import divergences"),
    ],
)
def test_a_planted_import_of_a_higher_room_is_found(name, line):
    (found,) = planted(name, line)
    assert name in found and "may not use" in found


@pytest.mark.parametrize(
    "name, line",
    [
        ("losses.divergences", "from jopd.losses import objective"),
        ("training.step", "from jopd.training.loop import run"),
        ("rollouts.sampling", "import jopd.rollouts.blocks"),
    ],
)
def test_a_planted_import_of_a_higher_file_is_found(name, line):
    (found,) = planted(name, line)
    assert found.startswith(f"{name} imports") and "not below" in found


def test_a_planted_import_from_below_is_not():
    assert not planted("training.loop", "from jopd.losses import objective")
