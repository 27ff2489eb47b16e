"""jopd: on-policy distillation of language models in JAX.

    jopd.load(path)                       a model: logits, texts, parameters, tokenizer
    jopd.train.run(config, directory)     a whole run, as the command makes it

Modules lie in rooms, see ``docs/design.md``; those below have a short name too, as an
attribute and in imports. All are loaded on first use, so importing ``jopd`` is free.
"""

import importlib
import importlib.abc
import importlib.util
import sys

__version__ = "0.1.0"

# Public name -> where it lives.
PUBLIC = {
    "buffer": "batches.buffer",
    "config": "setup.config",
    "configs": "setup.shipped",
    "divergences": "losses.divergences",
    "estimators": "losses.estimators",
    "metrics": "reporting.metrics",
    "objective": "losses.objective",
    "optimizer": "setup.optimizer",
    "rewards": "data.rewards",
    "rollout": "rollouts.generate",
    "sampling": "rollouts.sampling",
    "signals": "losses.signals",
    "step": "training.step",
    "stops": "rollouts.stops",
    "train": "training.loop",
    "weights": "losses.weights",
}
BESIDE = ("models", "types", "evaluate", "generate")


class _ShortNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """``import jopd.<public name>`` gives the module itself, not a second copy."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.rpartition(".")
        if package == __name__ and name in PUBLIC:
            return importlib.util.spec_from_loader(fullname, self)
        return None

    def exec_module(self, module):
        short = module.__name__
        place = PUBLIC[short.rpartition(".")[2]]
        sys.modules[short] = importlib.import_module(f"{__name__}.{place}")


sys.meta_path.append(_ShortNames())


def __getattr__(name: str):
    if name in PUBLIC or name in BESIDE:
        return importlib.import_module(f"jopd.{name}")
    if name == "load":
        return importlib.import_module("jopd.setup.model").load
    raise AttributeError(f"module 'jopd' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *PUBLIC, *BESIDE, "load"})
