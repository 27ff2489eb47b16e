"""From a name and arguments in a config to a function."""

import functools
import importlib
import inspect


def resolve(name: str, namespace, kind: str):
    """``name`` in ``namespace``, or ``method.function`` in ``jopd.methods.method``.

    Raises:
      ValueError: nothing of that name; the known ones are listed.
    """
    if "." in name:
        module_name, function_name = name.rsplit(".", 1)
        try:
            namespace = importlib.import_module(f"jopd.methods.{module_name}")
        except ModuleNotFoundError as error:
            if not f"jopd.methods.{module_name}".startswith(error.name or "?"):
                raise  # the file is there, what it imports is not
            raise ValueError(
                f"unknown {kind} {name!r}: no file jopd/methods/{module_name}.py"
            ) from error
        name = function_name
    known = names(namespace)
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}")
    return getattr(namespace, name)


def names(namespace) -> list[str]:
    """Public functions that a module defines itself."""
    return sorted(
        key
        for key, value in vars(namespace).items()
        if inspect.isfunction(value)
        and value.__module__ == namespace.__name__
        and not key.startswith("_")
    )


def bind(function, arguments: dict, where: str):
    """``function`` with keyword arguments; a wrong one names those that it takes."""
    taken = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    unknown = sorted(set(arguments) - set(taken))
    if unknown:
        raise ValueError(
            f"{where}: {function.__name__} takes no {unknown[0]!r}; "
            f"it takes {', '.join(taken) or 'no arguments'}"
        )
    return functools.partial(function, **arguments) if arguments else function
