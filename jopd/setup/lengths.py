"""How long prompts may be, and how wide their arrays are."""

import math
import sys
from typing import NamedTuple


class Widths(NamedTuple):
    """Padded lengths, ascending: of prompts, of what rollouts go on from, of rows."""

    prompts: tuple[int, ...]
    given: tuple[int, ...]
    rows: tuple[int, ...]


def longest_prefix(config) -> int:
    """Most tokens that ``rollout.prefix`` puts before what the student writes."""
    c = config.rollout
    share = max(c.prefix.share, c.prefix.end) if c.prefix.source else 0.0
    return math.floor(share * c.max_new_tokens)


def longest_response(config) -> int:
    """Most tokens of a rollout's response: a prefix, and the student's own."""
    return longest_prefix(config) + config.rollout.max_new_tokens


def evaluation_limit(config) -> int:
    """Most tokens of a response that an evaluation draws."""
    return config.eval.max_new_tokens or config.rollout.max_new_tokens


def longest_read(config) -> int:
    """Most tokens of a response that models read, of a rollout or an evaluation."""
    return max(longest_response(config), evaluation_limit(config))


def prompt_limit(config, positions: dict[str, int]) -> int:
    """Most tokens of a prompt: as asked, or what every model holds beside a response.

    Without either, and where a longer prompt is an error, there is no limit here:
    ``check_positions`` then says whose positions do not suffice.
    """
    asked = config.data.max_prompt_tokens
    return asked or room(config, min(positions.values()))


def room(config, positions: int, name: str = "student") -> int:
    """Tokens of a prompt that leave room for a response, for who drops or cuts."""
    if config.data.on_long_prompt == "error":
        return sys.maxsize
    room = positions - _read_by(name, config)
    if room < 1:
        raise ValueError(
            f"{_longest(name, config)} leaves no room for a prompt in {positions} "
            "positions; lower it"
        )
    return room


def _read_by(name: str, config) -> int:
    """Most tokens of a response that a model reads: evaluations compare two of them."""
    both = name in ("student", "teacher")
    return longest_read(config) if both else longest_response(config)


def _longest(name: str, config) -> str:
    """What ``_read_by`` is made of, in words."""
    response, evaluated = longest_response(config), evaluation_limit(config)
    if _read_by(name, config) > response:
        return f"eval.max_new_tokens={evaluated}"
    prefix = longest_prefix(config)
    behind = f" behind a prefix of up to {prefix}" if prefix else ""
    return f"rollout.max_new_tokens={config.rollout.max_new_tokens}{behind}"


def most_of_context(config, rollouts: int = 0) -> int:
    """Most tokens of a prompt that a teacher's context makes; 0: not limited.

    Where it shows ``rollouts``, as many are beside the student's prompt, else one
    solution.
    """
    c = config.data
    shown = rollouts * longest_response(config) or config.rollout.max_new_tokens
    return c.max_context_tokens or (c.max_prompt_tokens and c.max_prompt_tokens + shown)


def auto_buckets(longest: int) -> tuple[int, ...]:
    """Half of the longest and the longest, rounded up: few shapes, little padding."""
    full = -(-longest // 8) * 8
    half = -(-full // 16) * 8
    return (half, full) if full > 32 else (full,)


def pick_widths(config, rows) -> Widths:
    """The padded prompt lengths of a config, or ones that fit the data, and the rest.

    Raises:
      ValueError: a prompt is longer than the config's longest.
    """
    longest = max(len(p) for p in (*rows.train.prompts, *rows.held.prompts))
    asked = tuple(sorted(config.rollout.prompt_buckets))
    if asked and asked[-1] < longest:
        raise ValueError(
            f"rollout.prompt_buckets={asked}: a prompt has {longest} tokens; add a "
            f"bucket of at least {longest} or lower data.max_prompt_tokens"
        )
    prompts = asked or auto_buckets(longest)
    rows = auto_buckets(prompts[-1] + config.rollout.max_new_tokens)
    if not (prefix := longest_prefix(config)):
        return Widths(prompts, prompts, rows)
    given = auto_buckets(prompts[-1] + prefix)
    longest = auto_buckets(prompts[-1] + longest_response(config))[-1]
    return Widths(prompts, given, tuple(sorted({*rows, longest})))


def evaluation_rows(config, mix, held: int, devices: int) -> int:
    """Rows generated at one time by an evaluation of ``held`` prompts: as many as are
    needed and divisible by devices."""
    c = config.eval
    asked = c.batch_rows or mix.fresh or mix.rows
    rows = min(asked, c.k * min(c.prompts, held))
    return rows + -rows % devices


def check_positions(config, shapes, rows, widths: Widths) -> None:
    """Every model must have a position for every token that it may read."""
    for name, shape in shapes.items():
        longest, limit = widths.prompts[-1], _read_by(name, config)
        if name in rows.own_prompts:
            parts = rows.own_prompts[name]
            longest = max(len(prompt) for part in parts for prompt in part.prompts)
        if rows.peers is not None and name in rows.peers.contexts:
            longest = rows.peers.widths[-1]
        if longest + limit > shape.max_positions:
            raise ValueError(
                f"prompt and response together take up to {longest + limit} "
                f"positions, the {name} has {shape.max_positions}; lower "
                f"{_longest(name, config)}, or keep prompts shorter with "
                "data.on_long_prompt='drop' and data.max_prompt_tokens (of a teacher "
                "that reads more: data.max_context_tokens)"
            )
