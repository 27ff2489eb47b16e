"""From a name and arguments in a config to a function."""

import difflib
import functools
import importlib
import inspect


def resolve(name, namespace, kind: str):
    """The function that a config means by ``name``; a function means itself.

    A plain name is looked up in ``namespace``, ``method.function`` in
    ``jopd.methods.method``, and ``package.module.function`` wherever Python finds it.

    Raises:
      ValueError: nothing of that name; the known ones are listed.
    """
    if callable(name):
        return name
    if "." in (name := str(name)):
        return imported(name, kind, "jopd.methods.")
    known = names(namespace)
    if name not in known:
        raise ValueError(
            f"unknown {kind} {name!r:.80}; known: {', '.join(known)}; one of your own "
            "is named as package.module.function"
        )
    return getattr(namespace, name)


def imported(name: str, kind: str, *within: str):
    """The function ``package.module.function``, or the same below a prefix ``within``.

    Raises:
      ValueError: no such module, no such function in it, or it cannot be imported:
        then what went wrong there is the cause.
    """
    module_name, _, function_name = name.rpartition(".")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(
            f"unknown {kind} {name!r:.80}: no dotted name of a function; write "
            "package.module.function"
        )
    for prefix in (*within, ""):
        try:
            module = _module(prefix + module_name)
        except Exception as error:
            raise ValueError(
                f"{kind} {name!r}: {prefix}{module_name} cannot be imported: "
                f"{type(error).__name__}: {error} ({_place(error)})"
            ) from error
        if module is None:
            continue
        found = getattr(module, function_name, None)
        if not callable(found):
            raise ValueError(
                f"unknown {kind} {name!r}: {module.__name__} has no function "
                f"{function_name!r}; it has {', '.join(names(module)) or 'none'}"
            )
        return found
    places = " nor ".join(f"{prefix}{module_name}" for prefix in (*within, ""))
    raise ValueError(
        f"unknown {kind} {name!r}: there is no module {places}; write package.module."
        "function, with the package installed, on PYTHONPATH or in this folder"
    )


def _module(name: str):
    """The module, None where there is none."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # the file is there, what it imports is not
        return None


def _place(error: Exception) -> str:
    """File and line where it was raised, the machinery of imports aside."""
    found, frame = "", error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if "importlib" not in file:
            found = f"{file}, line {frame.tb_lineno}"
        frame = frame.tb_next
    return found


def name_of(function) -> str:
    """What ``resolve`` would find a function by, for records and messages."""
    function = getattr(function, "func", function)  # of a partial
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{function.__module__}.{name}"


def names(namespace) -> list[str]:
    """Public functions that a module defines itself."""
    return sorted(
        key
        for key, value in vars(namespace).items()
        if inspect.isfunction(value)
        and value.__module__ == namespace.__name__
        and not key.startswith("_")
    )


def arguments_of(function) -> list[str]:
    """Names of what a config may give it; its first is the record that it reads."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter.name for parameter in parameters if parameter.kind in named]


def nearest(name: str, known) -> str:
    """What to add to "unknown ...": the likest known name, if one is alike."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def bind(function, arguments: dict, where: str, beside=()):
    """``function`` with keyword arguments; a wrong one names those that it takes.

    ``beside`` are keys that may stand there without being arguments.
    """
    taken = arguments_of(function)
    unknown = sorted(set(arguments) - set(taken))
    if unknown:
        raise ValueError(
            f"{where}: {name_of(function)} takes no {unknown[0]!r}; "
            f"{nearest(unknown[0], (*taken, *beside))}"
            f"it takes {', '.join(taken) or 'no arguments'}"
        )
    return functools.partial(function, **arguments) if arguments else function
