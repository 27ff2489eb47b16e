"""From a config to an experiment: keys, checks, rows, models; nothing compiles here.

``config`` has every key, ``builders`` turns names into functions, ``validation``
refuses what cannot work, ``experiment.build`` loads. ``model`` is a model on its own.
Uses ``teachers`` and what is below. A new key goes to ``config`` and its check beside.
"""
