"""An adapter that is trained further (``student.adapter``), apart from its base."""

import copy
import os

from jopd.models import hf, peft
from jopd.setup import inputs
from jopd.setup.config import base_config


def continuing(config):
    """The config with rank, alpha, scaling and targets of ``student.adapter``, if any.

    Raises:
      ValueError: one of them is given, and is another; see ``peft.read``.
    """
    if not config.student.adapter:
        return config
    config, own = copy.deepcopy(config), base_config().student.lora
    for key, value in read(config).settings.items():
        given = config.student.lora[key]
        if given not in (own[key], value):
            raise ValueError(
                f"student.lora.{key}={given!r}, and the adapter that is trained "
                f"further has {value!r} (student.adapter={config.student.adapter}); "
                "leave the key out"
            )
        config.student.lora[key] = value
    return config


def read(config) -> peft.Adapter:
    """The adapter that is trained further."""
    paths = config.student.adapter, config.student.path
    path, base = map(inputs.model_path, paths)
    return peft.read(path, hf.load_config(base), base)


def other_base(config) -> list[str]:
    """A warning where the adapter names another base than ``student.path``."""
    if not config.student.adapter:
        return []
    base, path = read(config).base, config.student.path
    if os.path.realpath(base) == os.path.realpath(inputs.model_path(path)):
        return []
    return [
        f"the adapter {config.student.adapter} was trained on {base}; the student's "
        f"base is {path}, of the same shapes: are they one model?"
    ]
