"""Kinds of hostile inputs: each module's ``prepare(scratch)`` gives ``make(rng)``."""

import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple


class Case(NamedTuple):
    """An input.

    Attributes:
      said: what it is, for people.
      names: words of which a refusal has to contain one.
      run: gives it to the project; None if what comes of it is right, else what is
        wrong with it.
    """

    said: str
    names: tuple[str, ...]
    run: Callable[[], str | None]


NASTY = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    10**30,
    -(10**12),
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    " ",
    "x",
    "0",
    "nan",
    "true",
    "None",
    "../x",
    "\x00",
    "\ud800",
    "{{ x }}",
    "é漢🙂\u2028",
    "a" * 5000,
    [],
    {},
    [0],
    [None],
    ["x"],
    [[]],
    {"a": 1},
    {"": None},
    [1, "x", None],
)


def nasty(rng: random.Random) -> Any:
    """A value that a key does not expect."""
    return rng.choice(NASTY)


def damage(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Bytes as broken disks, cut transfers and editors leave them."""
    how = rng.randrange(9)
    at = rng.randrange(len(data) + 1)
    if how == 0:
        return data[:at], f"cut at {at}"
    if how == 1:
        return b"", "empty"
    if how == 2:
        other = bytearray(data)
        spots = [rng.randrange(len(data) or 1) for _ in range(rng.randint(1, 4))]
        for spot in spots if data else ():
            other[spot] ^= 1 << rng.randrange(8)
        return bytes(other), f"bits flipped at {spots}"
    if how == 3:
        junk = rng.randbytes(rng.randint(1, 40))
        return data[:at] + junk + data[at:], f"{junk!r} put in at {at}"
    if how == 4:
        end = min(len(data), at + rng.randint(1, 60))
        return data[:at] + data[end:], f"{at} to {end} left out"
    if how == 5:
        junk = rng.randbytes(rng.randint(0, 300))
        return junk, "random bytes"
    if how == 6:
        deep = rng.choice([b"[", b'{"a":', b"[{"]) * rng.choice([50, 2000, 200_000])
        return rng.choice([b"", data[:at], b'{"a":']) + deep, "nested deeply"
    if how == 7:
        return b"\xef\xbb\xbf" + data, "with a byte order mark"
    return data + rng.choice([b"\x00", b"}", b"\n\n", b"trailing", data]), "more behind"


def mutate_json(rng: random.Random, value: Any) -> tuple[Any, str]:
    """``value`` with one of its parts changed, dropped or renamed, at any depth."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        copied = value.copy()
        how = rng.random()
        if how < 0.6:
            copied[key], said = mutate_json(rng, value[key])
            return copied, f"{key}: {said}"
        if how < 0.75:
            del copied[key]
            return copied, f"{key} dropped"
        if how < 0.85 and isinstance(value, dict):
            copied[str(key) + rng.choice(["_", "s", " "])] = copied.pop(key)
            return copied, f"{key} renamed"
        if how < 0.95 and isinstance(value, dict):
            new, content = rng.choice(["extra", "is_causal", "", "a.b"]), nasty(rng)
            copied[new] = content
            return copied, f"{new!r}: {content!r:.60} added"
        if isinstance(value, list):
            copied.append(rng.choice(value))
            return copied, "an item twice"
    content = nasty(rng)
    if isinstance(value, int | float) and rng.random() < 0.4:
        content = rng.choice([-value, value * 2, value + 1, float(value), str(value)])
    return content, f"{content!r:.60}"


def dump(value: Any) -> bytes:
    """JSON as Python writes it, NaN and lone surrogates included."""
    return json.dumps(value).encode()
