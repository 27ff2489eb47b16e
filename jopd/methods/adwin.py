"""ADWIN (arXiv:2605.28396): rollouts are as long as their gradient asks for.

Every few updates rollouts are written to their end, and the gradient of the tokens
before each of some windows is compared with that of all tokens. Until the next time
rollouts end at the shortest window whose cosine is large enough: what is behind it
would teach what is before it does. At the threshold of sqrt(1/2) signal and noise are
equal, c^2 / (1 - c^2) >= 1.

Formulas are secondary: the paper's text was not at hand. Its cosine is in the metric of
the Fisher matrix, here it is the plain one; its probes are rows of their own, behind by
some updates and never learned from, here they are the rows of an update.
"""

import jax
import jax.numpy as jnp

from jopd.types import Memory, Probe, Scores

THRESHOLD = 0.5**0.5


def window(
    vocabulary: int,
    *,
    grid: tuple[int, ...],
    threshold: float = THRESHOLD,
    every_steps: int = 5,
) -> Memory:
    """What ``rollout.horizon=dict(memory=...)`` reads, and how it is learned.

    Starts at the longest of ``grid``, tokens of a response in ascending order. Updates
    0, ``every_steps``, ... are of rollouts to there, and of them the window is chosen.

    Raises:
      ValueError: no grid that ascends from 1 on; fewer than 2 ``every_steps``.
    """
    del vocabulary
    grid = tuple(grid)
    if not grid or any(a >= b for a, b in zip((0, *grid), grid)):
        raise ValueError(
            f"grid={grid!r:.80} must be numbers of tokens in ascending order, from 1 on"
        )
    if every_steps < 2:
        raise ValueError(
            f"every_steps={every_steps} must be at least 2: rollouts of every update "
            "would be written to their end, and no window would save any"
        )

    def horizon(updates, chosen):
        return jnp.where(updates % every_steps == 0, jnp.int32(grid[-1]), chosen)

    def start():
        longest, unknown = jnp.int32(grid[-1]), jnp.full(len(grid), jnp.nan)
        said = dict(window=longest, horizon=longest, cosines=unknown)
        return said | {"updates": jnp.int32(0)}

    def step(held, scores: Scores):
        del scores
        updates = held["updates"] + 1
        return held | dict(updates=updates, horizon=horizon(updates, held["window"]))

    def learn(held, cosines):
        chosen = choose(cosines, grid, threshold)
        now = horizon(held["updates"], chosen)
        return held | dict(window=chosen, horizon=now, cosines=cosines)

    # It is asked when the update is counted already.
    due = lambda held: (held["updates"] - 1) % every_steps == 0
    return Memory(start, step, Probe(grid, due, learn))


def choose(cosines: jax.Array, grid: tuple[int, ...], threshold: float) -> jax.Array:
    """The shortest window with a cosine from ``threshold`` on, i32; else the last."""
    enough_N = (cosines >= threshold).at[-1].set(True)
    return jnp.asarray(grid, jnp.int32)[jnp.argmax(enough_N)]


def levels(scores: Scores, *, memory: str) -> dict[str, jax.Array]:
    """For the log: the window in tokens, and the cosine of the shortest."""
    held = scores.memory[memory]
    return {"window": held["window"], "shortest_cosine": held["cosines"][0]}
