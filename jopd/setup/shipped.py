"""The configs that come with the library, by name: ``opd`` for ``configs/opd.py``."""

import runpy
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# In a checkout they lie beside the package, for people to read and copy; in a wheel,
# inside of it.
FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def names() -> list[str]:
    return sorted(path.stem for path in _folder().glob("*.py"))


def find(name: str) -> Path:
    """The file of a shipped config.

    Raises:
      ValueError: there is none of that name; the known ones are listed.
    """
    path = _folder() / f"{name}.py"
    if not path.is_file():
        raise ValueError(
            f"no config is named {name!r}; shipped: {', '.join(names())}; a file of "
            f"your own is given by its path, such as {name}.py"
        )
    return path


def load(name: str):
    """A shipped config as ``get_config`` makes it, to be changed and run.

    Raises:
      ValueError: see ``find``.
    """
    return runpy.run_path(str(find(name)))["get_config"]()


def _folder() -> Path:
    return next((f for f in FOLDERS if (f / "opd.py").is_file()), FOLDERS[0])
