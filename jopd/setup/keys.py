"""What ``base_config`` says of its keys, for people: a comment is written once."""

import ast
import inspect
import io
import shlex
import textwrap
import tokenize

from ml_collections import ConfigDict

from jopd.setup import config
from jopd.teachers import secrecy


def comments() -> dict[str, str]:
    """Key, or section, to the comments above it and behind it; "" without any."""
    source = inspect.getsource(config.base_config)
    said = _comments_by_line(source)
    found = {}
    for key, first, last in _places(ast.parse(source)):
        above = []
        while said.get(first - len(above) - 1, ("", False))[1]:
            above.insert(0, said[first - len(above) - 1][0])
        behind = said.get(last, ("", False))[0]
        found[key] = " ".join(filter(None, (*above, behind)))
    return found


def _comments_by_line(source: str) -> dict[int, tuple[str, bool]]:
    """Line -> (comment, whether it has the line for itself)."""
    return {
        token.start[0]: (token.string.lstrip("# "), token.line.lstrip()[0] == "#")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }


def _places(tree: ast.Module):
    """(key, its first line, the line where its comment may stand) for all keys."""
    for node in tree.body[0].body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Attribute):
            yield from _place(target.attr, node.lineno, node.value)


def _place(key: str, line: int, value):
    inside = value.keys if isinstance(value, ast.Dict) else []
    yield key, line, 0 if inside else value.end_lineno
    for name, below in zip(inside, value.values if inside else ()):
        yield from _place(f"{key}.{name.value}", name.lineno, below)


def flatten(found: ConfigDict | dict, prefix: str = "") -> dict[str, object]:
    """Key with dots -> value; a section without keys is a ``{}`` of its own."""
    flat = {}
    for name, value in found.items():
        section = isinstance(value, (ConfigDict, dict))
        if section and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = {} if section else value
    return flat


def as_flags(found: ConfigDict) -> str:
    """Every key as a word of a command line, one a line; a shell may read it.

    ``steps`` is left out where ``epochs`` take its place.
    """
    flat = secrecy.hidden_within(flatten(found))
    if flat.get("epochs"):
        del flat["steps"]
    return "\n".join(shlex.quote(f"--config.{key}={flat[key]}") for key in flat)


def explained(found: ConfigDict, width: int) -> str:
    """Every key with its value and what ``base_config`` says of it."""
    said, lines, section = comments(), [], ""
    order = {key: place for place, key in enumerate(said)}
    rank = lambda item: order.get(item[0], order.get(item[0].split(".")[0]))
    flat = secrecy.hidden_within(flatten(found))
    for key, value in sorted(flat.items(), key=rank):
        if (above := key.rpartition(".")[0]) != section:
            section = above
            lines += ["", *_wrapped(said.get(section, ""), "  ", width)]
        given = f"  {key}={value}"
        words = _wrapped(said.get(key, ""), " " * 40, width)
        if words and len(given) < 40:
            words[0] = given + words[0][len(given) :]
        else:
            lines.append(given)
        lines += words
    return "\n".join(lines)


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    filled = dict(initial_indent=indent, subsequent_indent=indent)
    return textwrap.wrap(text, width, **filled)
