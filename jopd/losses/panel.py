"""Several teachers as one: a weighted combination that terms name like a model.

    mixture   log sum_i w_i p_i
    product   log_softmax(sum_i w_i log p_i), the normalised geometric mean
    guided    log_softmax(z + s (mean_plus z_i - mean_minus z_j)), z logits of a member

The weights are shares: they are divided by their sum, over the members that serve a
row (see ``roles.served``), so a row is judged by those who know about it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopd.types import Batch

KINDS = ("mixture", "product", "guided")
STRENGTH = "strength/"  # and the name of a panel, in ``Batch.extra``


class Panel(NamedTuple):
    """A combination of frozen models. Static: closed over by the jitted stages.

    Attributes:
      name: what terms call it.
      members: names of models, at least one.
      weights: one share per member; empty: all alike.
      kind: one of ``KINDS``.
      plus, minus: names of models, of a guided one the two sides.
      strength: s of a guided one, a number or the keys of a schedule.
    """

    name: str
    members: tuple[str, ...]
    weights: tuple[float, ...] = ()
    kind: str = "mixture"
    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    strength: float | Mapping = 1.0

    @property
    def shares(self) -> dict[str, float]:
        """Member -> weight, those of weight 0 left out."""
        weights = self.weights or (1.0,) * len(self.members)
        pairs = zip(self.members, weights, strict=True)
        return {name: float(weight) for name, weight in pairs if weight}

    @property
    def sides(self) -> tuple[str, ...]:
        """Who is read only for the difference of a guided panel."""
        return (*self.plus, *self.minus)


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
    _check_guided(where, panel)
    for name in (*panel.members, *panel.sides):
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
        if (*panel.members, *panel.sides).count(name) > 1:
            raise ValueError(
                f"{where}.members names {name!r} more than once; give it one weight"
            )
    _check_weights(where, panel)


def _check_guided(where: str, panel: Panel) -> None:
    if panel.kind != "guided":
        if panel.sides or panel.strength != 1.0:
            raise ValueError(
                f"{where}: plus, minus and strength are for kind='guided', and it is "
                f"{panel.kind!r}"
            )
        return
    if len(panel.members) != 1 or panel.weights:
        raise ValueError(
            f"{where}: kind='guided' steers one member without weights, and has "
            f"members={panel.members!r} and weights={panel.weights!r}"
        )
    for key in ("plus", "minus"):
        if not getattr(panel, key):
            raise ValueError(
                f"{where}.{key} is empty: kind='guided' takes the difference of both "
                f"sides; name a model in {key}"
            )


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
        guided    log_softmax of ``guided``

    A panel of one, or of equal members, is that member. Where no member serves, all
    do: the numbers are finite, and terms leave such rows out of their scope. A token
    that a member of the product rules out has probability 0; where that leaves none,
    the product is undefined (NaN).

    Args:
      logits: name -> f32[..., V], unnormalised; must hold the members.
      serves: name -> bool[...]; a member that is not in it serves every row. And
        strengths, see ``rows_in``.
    """
    if panel.kind == "guided":
        return jax.nn.log_softmax(guided(panel, logits.__getitem__, serves), axis=-1)
    shares = panel.shares
    logp = [jax.nn.log_softmax(logits[name], axis=-1) for name in shares]
    weights = member_weights(shares, serves, logp[0].shape[:-1])
    terms = jnp.stack(logp), weights[..., None]
    if panel.kind == "mixture":
        return jax.nn.logsumexp(terms[0] + jnp.log(terms[1]), axis=0)
    # A weight of 0 takes a member out, also where it rules a token out: 0 times -inf.
    weighted = jnp.where(terms[1] > 0, terms[1] * terms[0], 0.0)
    return jax.nn.log_softmax(jnp.sum(weighted, axis=0), axis=-1)


def guided(
    panel: Panel, read: Callable[[str], jax.Array], serves: Mapping[str, jax.Array]
) -> jax.Array:
    """z + s (mean_{i in plus} z_i - mean_{j in minus} z_j), f32[..., V], unnormalised.

    Logits of OGLS-SD (arXiv:2605.12400, version 1). Means are over those who serve a
    row; where one side has none it is z. Models are read one after the other and
    summed up, so that no more than three rows of logits are there at a time.

    Args:
      read: name -> f32[..., V], unnormalised logits.
      serves: as for ``combine``.
    """
    base = read(panel.members[0])
    shift, both = jnp.zeros_like(base), jnp.ones(base.shape[:-1], bool)
    for sign, names in ((1.0, panel.plus), (-1.0, panel.minus)):
        here = [jnp.broadcast_to(serves.get(n, True), both.shape) for n in names]
        count = jnp.sum(jnp.stack(here), axis=0)
        share = sign / jnp.maximum(count, 1)
        for name, serving in zip(names, here, strict=True):
            weight = jnp.where(serving, share, 0.0)[..., None]
            shift = shift + jnp.where(serving[..., None], weight * read(name), 0.0)
        both = both & (count > 0)
    strength = serves.get(f"{STRENGTH}{panel.name}", panel.strength)
    strength = jnp.where(both, strength, 0.0).astype(base.dtype)
    return base + strength[..., None] * shift


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
    """``combine`` of every panel by its name; of those that are not there already."""
    return {
        panel.name: combine(panel, logits, serves)
        for panel in panels
        if panel.name not in logits
    }


def read_all(
    panels: Iterable[Panel],
    read: Callable[[str], jax.Array],
    names: Iterable[str],
    wanted: Iterable[str],
    serves: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """Logits by name, guided panels among them, in the place of who is only summed up.

    Args:
      names: models that ``read`` gives logits of.
      wanted: what terms name; the sides of panels are kept where that has them.
    """
    steered = [panel for panel in panels if panel.kind == "guided"]
    plain = [panel for panel in panels if panel.kind != "guided"]
    summed = {name for panel in steered for name in panel.sides}
    summed -= with_members(wanted, plain)
    found = {name: read(name) for name in names if name not in summed}
    return found | {panel.name: guided(panel, read, serves) for panel in steered}


def with_members(names: Iterable[str], panels: Iterable[Panel]) -> set[str]:
    """``names`` with those of panels replaced by their members."""
    members = {panel.name: {*panel.shares, *panel.sides} for panel in panels}
    return set().union(*(members.get(name, {name}) for name in names))


def rows_in(batch: Batch) -> dict[str, jax.Array]:
    """``Batch.serves`` as bool[B, T], and f32[B, T] strengths of guided panels that an
    annotation left, by ``STRENGTH`` and the panel's name."""
    shape = batch.mask_BT.shape
    strengths = {k: v for k, v in batch.extra.items() if k.startswith(STRENGTH)}
    return strengths | {
        name: jnp.broadcast_to(serves_B[:, None], shape)
        for name, serves_B in batch.serves.items()
    }
