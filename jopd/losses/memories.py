"""What weights remember of earlier updates: started, read, then stepped.

A weight, an advantage or a report names one by its argument ``memory`` and reads it as
``scores.memory[name]``: an update is judged by those before it. A memory comes from a
function ``(vocabulary, **arguments) -> types.Memory``, named in the config's
``memory``.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from jopd.losses import segments
from jopd.losses.objective import Term
from jopd.types import Memory, Scores


def named(terms: Iterable[Term]) -> dict[str, Callable[[int], Memory]]:
    """The memories that terms read, each once."""
    return {name: make for term in terms for name, make in term.memories}


def start(terms: Iterable[Term], vocabulary: int) -> dict[str, Any]:
    """All of them before the first update."""
    return {name: make(vocabulary).start() for name, make in named(terms).items()}


def step(terms: Iterable[Term], vocabulary: int, scores: Scores) -> dict[str, Any]:
    """All of them after an update, from ``scores`` and what these say was before it."""
    return {
        name: make(vocabulary).step(scores.memory[name], scores)
        for name, make in named(terms).items()
    }


def learn(terms: Iterable[Term], vocabulary: int, memory, gradient, whole):
    """``memory`` with what those with a probe that is due learn of the gradient.

    ``whole`` is that of the update, ``gradient`` gives it of a segment, see
    ``segments.cosines``; without a probe nothing is computed.
    """
    for name, make in named(terms).items():
        probe = make(vocabulary).probe
        if probe is None:
            continue

        def asked(held, probe=probe):
            return probe.learn(held, segments.cosines(gradient, whole, probe.edges))

        held = memory[name]
        found = jax.lax.cond(probe.due(held), asked, lambda held: held, held)
        memory = memory | {name: found}
    return memory
