"""Which models and panels a config offers to terms, and which of them terms name."""

import inspect

from ml_collections import ConfigDict

from jopd.losses import panel
from jopd.losses.objective import Term
from jopd.losses.panel import Panel
from jopd.teachers import roles


def teachers_of(config: ConfigDict) -> dict[str, roles.Teacher]:
    """Every model that terms may name, checked only where one does."""
    known = {"teacher": config.teacher, **config.teachers}
    found = {}
    for name, spec in known.items():
        unknown = sorted(set(spec) - set(roles.Teacher._fields))
        if unknown or name in ("student", "reference"):
            raise ValueError(
                f"teachers.{name} cannot be: the name is taken"
                if not unknown
                else f"teachers.{name} has no key {unknown[0]!r}; known: "
                f"{', '.join(roles.Teacher._fields)}"
            )
        found[name] = roles.Teacher(**spec.to_dict())
    path = config.reference.path
    found["reference"] = roles.Teacher(weights="path" if path else "initial", path=path)
    return found


def models_named(terms: tuple[Term, ...]) -> set[str]:
    """Frozen models that any term reads: its ``other``, ``of`` or their defaults."""
    names = set()
    for term in terms:
        for function in (term.signal, term.advantage, *term.weights, term.report):
            if function is None:
                continue
            parameters = inspect.signature(function).parameters
            for key in ("other", "of"):
                if key in parameters:
                    names.add(parameters[key].default)
    return names - {"student", None}


def panels_of(config: ConfigDict) -> tuple[Panel, ...]:
    """Every panel of the config, checked.

    Raises:
      ValueError: names the key, its value and what to use instead.
    """
    known, found = teachers_of(config), []
    for name, spec in config.panels.items():
        spec = spec.to_dict()
        keys = [key for key in Panel._fields if key != "name"]
        unknown = sorted(set(spec) - set(keys))
        if unknown or "members" not in spec:
            raise ValueError(
                f"panels.{name} has no key {unknown[0]!r}; known: {', '.join(keys)}"
                if unknown
                else f"panels.{name} has no members; name some of "
                f"{', '.join(sorted(known))}"
            )
        spec["members"] = tuple(spec["members"])
        spec["weights"] = tuple(spec.get("weights", ()))
        found.append(Panel(name=name, **spec))
        panel.check(found[-1], known, config.panels)
    return tuple(found)


def frozen_named(config: ConfigDict, terms: tuple[Term, ...]) -> set[str]:
    """``models_named`` with the members of panels in their place."""
    return panel.with_members(models_named(terms), panels_of(config))
