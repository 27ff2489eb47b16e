"""jopd: on-policy distillation of language models in JAX.

The library is its modules: ``jopd.divergences``, ``jopd.estimators``, ``jopd.signals``,
``jopd.weights``, ``jopd.objective``, ``jopd.rollout`` (``generate``), ``jopd.step``,
``jopd.models``. They are loaded on first use, so importing ``jopd`` itself is free.
"""

import importlib

__version__ = "0.1.0"

_MODULES = (
    "buffer",
    "config",
    "divergences",
    "estimators",
    "evaluate",
    "models",
    "objective",
    "rollout",
    "sampling",
    "signals",
    "step",
    "train",
    "types",
    "weights",
)


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"jopd.{name}")
    raise AttributeError(f"module 'jopd' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_MODULES})
