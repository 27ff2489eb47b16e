"""The rope of a ``config.json``: its dicts, of older and newer keys, to our fields."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jopd.models import decoder
from jopd.models.decoder_config import DecoderConfig
from jopd.models.families import Family

# Keys of the rope dict: those that some type reads; others may stand there as null.
_ROPE = """
    attention_factor beta_fast beta_slow factor high_freq_factor long_factor
    low_freq_factor mscale mscale_all_dim original_max_position_embeddings
    partial_rotary_factor rope_theta rope_type short_factor truncate type
"""
ROPE = frozenset(_ROPE.split())
_NOTES = ("finetuned",)  # whether weights were trained under it
_LISTS = ("long_factor", "short_factor")
_ORIGINAL = 4096  # positions, where a model of Phi does not say
_PART = "partial_rotary_factor"
FULL, SLIDING = "full_attention", "sliding_attention"
_HUGE = 1e18  # no rope has such an angle; as a whole number it fits no array


def read(raw: Mapping[str, Any], family: Family, head_dim: int) -> dict[str, Any]:
    """Fields of DecoderConfig, from ``rope_parameters`` (transformers 5) or older keys.

    Raises:
      ValueError: a type, key or value that is not supported.
    """
    for key in ("rope_scaling", "rope_parameters"):
        if raw.get(key) and not isinstance(raw[key], dict):
            raise wrong(key, raw[key], "an object of keys")
    scaling, given = raw.get("rope_scaling") or {}, raw.get("rope_parameters") or {}
    if not family.local_theta:
        theta, scaled = _one(scaling or given, "rope_theta", raw, family)
        fields = {"rope_theta": theta, "rope_scaling": scaled}
        if _PART in family.keys:
            turned = _turned(scaling or given, raw, head_dim)
            fields["rotary_dim"] = turned
            fields |= _positions(dict(scaled), turned or head_dim)
        return fields
    for key in given:
        if key not in (FULL, SLIDING) or not isinstance(given[key] or {}, dict):
            raise ValueError(
                f"config.json: rope_parameters={given!r:.80} is not one object for "
                f"{FULL} and one for {SLIDING}; correct it"
            )
    full, local = ({**(given.get(kind) or {})} for kind in (FULL, SLIDING))
    theta, scaled = _one(full | scaling, "rope_theta", raw, family)
    local_theta, local_scaled = _one(local, family.local_theta, raw, family)
    if local_scaled:
        raise ValueError(
            f"config.json: rope_type={local['rope_type']!r:.80} of {SLIDING} is not "
            "supported; take a model whose rope there is 'default'"
        )
    alike = (local_theta, ()) == (theta, scaled)
    return {
        "rope_theta": theta,
        "rope_scaling": scaled,
        "local_rope_theta": 0.0 if alike else local_theta,
    }


def describe(config: DecoderConfig, family: Family) -> dict[str, Any]:
    """``rope_parameters`` that ``read`` reads as the config has it."""
    plain = {"rope_type": "default"}
    whole = (dict(config.rope_scaling) or plain) | {"rope_theta": config.rope_theta}
    whole |= {key: list(whole[key]) for key in _LISTS if key in whole}
    if _PART in family.keys:
        whole[_PART] = (config.rotary_dim or config.head_dim) / config.head_dim
    if not family.local_theta:
        return whole
    theta = config.local_rope_theta or config.rope_theta
    return {FULL: whole, SLIDING: plain | {"rope_theta": theta}}


def check(config: DecoderConfig) -> None:
    """Its formulas give finite frequencies."""
    named = dict(config.rope_scaling)
    try:
        frequencies, factor = decoder.rope_frequencies(config)
    except KeyError as error:
        raise ValueError(f"config.json: rope {named} lacks {error}") from error
    except (ArithmeticError, TypeError) as error:
        raise ValueError(f"config.json: rope {named}: {error}; correct it") from error
    if not (np.isfinite(frequencies).all() and math.isfinite(factor)):
        raise ValueError(
            f"config.json: rope_theta={config.rope_theta}, rope {named} give angles "
            "that are not finite; correct them"
        )


def _one(rope: dict, theta_key: str, raw: Mapping, family: Family):
    """Theta and the rest of one rope dict."""
    if rope.get("rope_theta", 1) is None:  # transformers would put nothing there
        raise wrong("rope_theta", None, "a number above 0")
    rope = {k: v for k, v in rope.items() if v is not None and k not in _NOTES}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if "longrope" in family.ropes and kind in ("su", "yarn"):
        kind = "longrope"  # its older names, in that family
    if isinstance(kind, str) and kind not in family.ropes:
        raise ValueError(
            f"config.json: rope_type={kind!r:.80} is not supported; take a model with "
            f"one of {', '.join(family.ropes)}"
        )
    _check_keys(rope, family)
    default = family.absent.get(theta_key, 10000.0)
    theta = rope.pop("rope_theta", raw.get(theta_key) or default)
    for key in ("type", "rope_type", _PART):
        rope.pop(key, None)
    if kind == "default":
        return float(theta), ()
    if kind == "longrope":
        return float(theta), tuple(sorted(_longrope(rope, raw).items()))
    if kind in ("llama3", "yarn"):
        # On the top level, as Phi writes it, it comes first: so in transformers.
        original = raw.get("original_max_position_embeddings")
        place = "original_max_position_embeddings"
        rope.setdefault(place, raw["max_position_embeddings"])
        rope[place] = original or rope[place]
    return float(theta), tuple(sorted({"rope_type": kind, **rope}.items()))


def _positions(scaled: dict[str, Any], turned: int) -> dict[str, int]:
    """The positions of a ``longrope`` model: those up to which its angles are the same
    whatever the length of a text is."""
    if scaled.get("rope_type") != "longrope":
        return {}
    if len(scaled["short_factor"]) != turned // 2:
        wanted = f"a list of {turned // 2} numbers above 0"
        raise wrong("rope short_factor", list(scaled["short_factor"]), wanted)
    return {"max_positions": scaled["original_max_position_embeddings"]}


def _longrope(rope: dict[str, Any], raw: Mapping) -> dict[str, Any]:
    """With ``factor`` as transformers has it; the long form is only handed on."""
    for key in _LISTS:
        given = rope.get(key)
        if not (isinstance(given, list) and given and all(map(positive, given))):
            raise wrong(f"rope {key}", given, "a list of numbers above 0")
    original = raw.get("original_max_position_embeddings") or rope.get(
        "original_max_position_embeddings", _ORIGINAL
    )
    longer = rope.get("factor") or raw["max_position_embeddings"] / original
    found = {key: tuple(map(float, rope[key])) for key in _LISTS}
    found |= {"rope_type": "longrope", "factor": float(longer)}
    found["original_max_position_embeddings"] = original
    if "attention_factor" in rope:
        found["attention_factor"] = float(rope["attention_factor"])
    return found


def _turned(rope: dict, raw: Mapping, head_dim: int) -> int:
    """How many entries of a head are rotated; 0 is all of them."""
    part = rope.get(_PART) or raw.get(_PART) or 1.0
    if not positive(part) or part > 1 or int(head_dim * part) not in range(2, 2**31, 2):
        wanted = f"a part of 1 that makes pairs of a head of {head_dim}"
        raise wrong(_PART, part, wanted)
    return int(head_dim * part) % head_dim


def _check_keys(rope: dict[str, Any], family: Family) -> None:
    nested = [key for key, value in rope.items() if isinstance(value, dict)]
    if nested or (_PART not in family.keys and rope.get(_PART, 1.0) != 1.0):
        raise ValueError(f"rope {rope}: per-layer and partial rope are not supported")
    for key, value in rope.items():
        if key not in ROPE:
            raise ValueError(
                f"config.json: {key}={value!r:.80} in the rope parameters is not read "
                f"here, and the model's numbers may depend on it; known are "
                f"{', '.join(sorted(ROPE))}"
            )
        if key == "truncate" and type(value) is not bool:
            raise wrong(f"rope {key}", value, "true or false")
        if key in ("type", "rope_type") and not isinstance(value, str):
            raise wrong(f"rope {key}", value, "a name")
        listed = key in _LISTS and "longrope" in family.ropes
        if key in ("type", "rope_type", "truncate") or listed:
            continue
        if not positive(value):
            raise wrong(f"rope {key}", value, "a number above 0")


def positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < _HUGE


def wrong(key: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"config.json: {key}={value!r:.80} is not {wanted}; correct it")
