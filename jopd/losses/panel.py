"""Several teachers as one: a weighted combination that terms name like a model.

    mixture   log sum_i w_i p_i
    product   log_softmax(sum_i w_i log p_i), the normalised geometric mean

The weights are shares: they are divided by their sum, over the members that serve a
row (see ``roles.served``), so a row is judged by those who know about it.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopd.types import Batch

KINDS = ("mixture", "product")


class Panel(NamedTuple):
    """A combination of frozen models. Static: closed over by the jitted stages.

    Attributes:
      name: what terms call it.
      members: names of models, at least one.
      weights: one share per member; empty: all alike.
      kind: one of ``KINDS``.
    """

    name: str
    members: tuple[str, ...]
    weights: tuple[float, ...] = ()
    kind: str = "mixture"

    @property
    def shares(self) -> dict[str, float]:
        """Member -> weight, those of weight 0 left out."""
        weights = self.weights or (1.0,) * len(self.members)
        pairs = zip(self.members, weights, strict=True)
        return {name: float(weight) for name, weight in pairs if weight}


def check(panel: Panel, known: Iterable[str], panels: Iterable[str]) -> None:
    """Rejects a panel that cannot work.

    Args:
      known: names of the models.
      panels: names of all panels.

    Raises:
      ValueError: names the key, its value and what to use instead.
    """
    where = f"panels.{panel.name}"
    known = sorted(known)
    if panel.name in (*known, "student"):
        raise ValueError(f"{where}: a model has that name; choose another")
    if panel.kind not in KINDS:
        raise ValueError(
            f"{where}.kind={panel.kind!r} is unknown; use one of {', '.join(KINDS)}"
        )
    if not panel.members:
        raise ValueError(f"{where}.members is empty; name some of {', '.join(known)}")
    for name in panel.members:
        if name in panels:
            raise ValueError(
                f"{where}.members names the panel {name!r}: a panel has no panels in "
                "it; name that one's members"
            )
        if name not in known:
            raise ValueError(
                f"{where}.members names the model {name!r:.60}; known: "
                f"{', '.join(known)} (add it to config.teachers)"
            )
        if panel.members.count(name) > 1:
            raise ValueError(
                f"{where}.members names {name!r} more than once; give it one weight"
            )
    _check_weights(where, panel)


def _check_weights(where: str, panel: Panel) -> None:
    weights, members = panel.weights, panel.members
    if weights and len(weights) != len(members):
        raise ValueError(
            f"{where}.weights has {len(weights)} entries for {len(members)} members; "
            "give one each, or none at all"
        )
    for name, weight in zip(members, weights):
        if not 0 <= weight < float("inf"):
            raise ValueError(
                f"{where}.weights: {weight} of {name!r} must be at least 0 and finite"
            )
    if weights and not any(weights):
        raise ValueError(f"{where}.weights are all 0; raise at least one")


def combine(
    panel: Panel, logits: Mapping[str, jax.Array], serves: Mapping[str, jax.Array]
) -> jax.Array:
    """Log-probabilities of a panel, f32[..., V].

        mixture   log sum_i v_i p_i           v_i = w_i s_i / sum_j w_j s_j
        product   log_softmax(sum_i v_i log p_i)

    A panel of one, or of equal members, is that member. Where no member serves, all
    do: the numbers are finite, and terms leave such rows out of their scope. A token
    that a member of the product rules out has probability 0; where that leaves none,
    the product is undefined (NaN).

    Args:
      logits: name -> f32[..., V], unnormalised; must hold the members.
      serves: name -> bool[...]; a member that is not in it serves every row.
    """
    shares = panel.shares
    logp = [jax.nn.log_softmax(logits[name], axis=-1) for name in shares]
    weights = member_weights(shares, serves, logp[0].shape[:-1])
    terms = jnp.stack(logp), weights[..., None]
    if panel.kind == "mixture":
        return jax.nn.logsumexp(terms[0] + jnp.log(terms[1]), axis=0)
    # A weight of 0 takes a member out, also where it rules a token out: 0 times -inf.
    weighted = jnp.where(terms[1] > 0, terms[1] * terms[0], 0.0)
    return jax.nn.log_softmax(jnp.sum(weighted, axis=0), axis=-1)


def member_weights(
    shares: Mapping[str, float], serves: Mapping[str, jax.Array], shape: tuple
) -> jax.Array:
    """f32[M, ...]: shares of the members that serve, summing to 1 over them.

    Without any that serves: those of all members.
    """
    whole = [jnp.full(shape, share, jnp.float32) for share in shares.values()]
    serving = [
        jnp.where(serves[name], share, 0.0) if name in serves else share
        for name, share in zip(shares, whole, strict=True)
    ]
    serving = jnp.stack(serving)
    given = jnp.where(jnp.sum(serving, axis=0) > 0, serving, jnp.stack(whole))
    return given / jnp.sum(given, axis=0)


def combine_all(
    panels: Iterable[Panel],
    logits: Mapping[str, jax.Array],
    serves: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """``combine`` of every panel by its name."""
    return {panel.name: combine(panel, logits, serves) for panel in panels}


def with_members(names: Iterable[str], panels: Iterable[Panel]) -> set[str]:
    """``names`` with those of panels replaced by their members."""
    members = {panel.name: set(panel.shares) for panel in panels}
    return set().union(*(members.get(name, {name}) for name in names))


def serves_in(batch: Batch) -> dict[str, jax.Array]:
    """``Batch.serves`` as bool[B, T]."""
    shape = batch.mask_BT.shape
    return {
        name: jnp.broadcast_to(serves_B[:, None], shape)
        for name, serves_B in batch.serves.items()
    }
