"""The configs that come with the library, by name: ``opd`` for ``configs/opd.py``."""

import runpy
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# Inside the package in a wheel; beside it in a checkout, for people to read and copy.
_PLACES = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
FOLDER = next((place for place in _PLACES if (place / "opd.py").is_file()), _PLACES[0])


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def find(name: str) -> Path:
    """The file of a shipped config.

    Raises:
      ValueError: there is none of that name; the known ones are listed.
    """
    if name in names():
        return FOLDER / f"{name}.py"
    raise ValueError(
        f"no config is named {name!r}; shipped: {', '.join(names())}; a file of your "
        f"own is given by its path, such as {name}.py"
    )


def load(name: str):
    """A shipped config, to be changed and run; raises as ``find``."""
    return runpy.run_path(str(find(name)))["get_config"]()
