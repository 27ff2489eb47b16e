"""Terms over the states between layers, below the head: no vocabulary, no chunks.

A term with ``reads="states"`` has a signal ``states -> f32[B, T]``, of name -> [B, T,
L, D]: what models have behind L of their layers, the student's with gradient;
``<name>/layers`` are their numbers, np.i32[L]. Layers are counted from 1. The state
behind a model's last layer is the one that its head reads, after the final norm. Rows
are aligned as logits are (``objective.align``). Such a term is weighed as all others
(``objective.weigh``).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jopd.losses.objective import Term, Weighed, align

READS = ("logits", "states")


def of_logits(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """The terms that are walked over in chunks."""
    return tuple(term for term in terms if term.reads == "logits")


def of_states(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    return tuple(term for term in terms if term.reads == "states")


def layer_map(layers: tuple[int, ...], own: int, others: int) -> tuple[int, ...]:
    """Layers of a model of ``others`` that stand where ``layers`` of ``own`` do.

    phi(l) = round((l - 1) / (own - 1) * (others - 1)) + 1, from the first to the last
    (OPRD, arXiv:2606.06021, equation 11 in its authors' repository); the one layer of a
    model that has no other stands for the last.
    """
    if own == 1:
        return (others,) * len(layers)
    return tuple(round((n - 1) * (others - 1) / (own - 1)) + 1 for n in layers)


def layers_of(term: Term, count: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Whose layers a term reads, pair by pair, as many of each model.

    ``count`` has the layers of every model.

    Raises:
      ValueError: the student has no such layer.
    """
    own = count["student"]
    layers = term.layers or tuple(range(1, own + 1))
    if wrong := [n for n in layers if n > own]:
        raise ValueError(
            f"loss.{term.name}.layers={layers} names layer {wrong[0]}, and the student "
            f"has {own}; use layers from 1 to {own}, or leave it out for all"
        )
    others = {name: layer_map(layers, own, count[name]) for name in term.models}
    return {"student": layers} | others


def read_of(terms, count: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Whose layers must be kept for the terms, ascending; {} where none reads any."""
    found: dict[str, set[int]] = {}
    for term in of_states(terms):
        for name, layers in layers_of(term, count).items():
            found.setdefault(name, set()).update(layers)
    return {name: tuple(sorted(layers)) for name, layers in found.items()}


def loss(
    terms: tuple[Term, ...],
    states: Mapping[str, jax.Array],
    mask_BT: jax.Array,
    weighed: Mapping[str, Weighed],
    coefs: Mapping[str, jax.Array],
    count: Mapping[str, int],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What terms over states add to the loss, and their parts, as of ``objective``.

    Args:
      states: name -> [B, T, L, D] behind the layers of ``read_of``, unaligned.
      count: layers of every model, as ``read_of`` had it.
    """
    held, total, parts = read_of(terms, count), 0.0, {}
    # Before anything is made of them: what a mask hides may be anything.
    blank = lambda x: jnp.where(mask_BT[..., None, None], align(x), 0)
    states = {name: blank(states[name]).astype(jnp.float32) for name in held}
    for term in of_states(terms):
        seen = {}
        for name, layers in layers_of(term, count).items():
            place = [held[name].index(n) for n in layers]
            whole = place == list(range(len(held[name])))
            seen[name] = states[name] if whole else states[name][:, :, jnp.array(place)]
            if name != "student":
                seen[name] = jax.lax.stop_gradient(seen[name])
            seen[f"{name}/layers"] = np.asarray(layers, np.int32)
        weight_BT = weighed[term.name].weight_BT
        value_BT = jnp.where(weight_BT != 0, weight_BT * term.signal(seen), 0.0)
        parts[f"loss/{term.name}"] = value_BT
        total = total + coefs[term.name] * jnp.sum(value_BT)
    return total, parts


def check(term: Term, count: Mapping[str, int], widths: Mapping[str, int]) -> None:
    """Traces a signal over models of so many layers, so wide.

    Raises:
      ValueError: names the term.
    """
    of = lambda name, layers: (2, 3, len(layers), widths[name])
    chosen = layers_of(term, count)
    seen = {
        name: jax.ShapeDtypeStruct(of(name, layers), jnp.float32)
        for name, layers in chosen.items()
    }
    numbers = {f"{n}/layers": np.asarray(own, np.int32) for n, own in chosen.items()}
    try:
        found = jax.eval_shape(lambda seen: term.signal(seen | numbers), seen)
    except KeyError as error:
        raise ValueError(
            f"loss.{term.name} reads the states of {error}, which are not there; name "
            "a model by an argument other or of"
        ) from error
    except ValueError as error:
        raise ValueError(f"loss.{term.name}: {error}") from error
    if getattr(found, "shape", None) != (2, 3):
        shape = list(getattr(found, "shape", ()))
        raise ValueError(
            f"loss.{term.name}: its signal gives {shape} for states [2, 3, L, D]; one "
            "over states gives [B, T], a number for each token"
        )
