"""What generation is asked for, who draws, and what its loop carries."""

from typing import NamedTuple

import jax

from jopd.models import cache, decoder
from jopd.rollouts import sampling
from jopd.rollouts.behavior import Partner

PLAIN = sampling.Filter()  # temperature 1, nothing cut


class Policy(NamedTuple):
    """Who draws, and how; static. Fields are those of ``generate``."""

    model: decoder.Decoder
    stop_ids: tuple[int, ...]
    vocabulary: int
    filters: sampling.Filter = PLAIN
    partner: Partner | None = None


class Request(NamedTuple):
    """What to continue.

    Attributes:
      tokens_BP: i32, given tokens (prompt, then response prefix if any), right-padded.
      length_B: i32, number of given tokens, at least 1.
      prompt_length_B: i32, how many of them are the prompt; the rest is a prefix.
      limit_B: i32, most new tokens per row, at most ``max_new_tokens``.
      row_B: i32, identity of the row; with the key it fixes the random stream.
      prefix_source_BP: i32, who wrote each given token that is not prompt.
    """

    tokens_BP: jax.Array
    length_B: jax.Array
    prompt_length_B: jax.Array
    limit_B: jax.Array
    row_B: jax.Array
    prefix_source_BP: jax.Array


class Loop(NamedTuple):
    """Carry of the decode loop: ``step`` draws are done, ``count_B`` of each row count.

    ``start_B`` draws were done when a row came. Draw j is column j mod L of the two
    records. A row that is done has ended or reached its limit; one that is finished has
    ended. ``states_BKD`` are the states that the latest K draws were made from, draw j
    in column j mod K, where somebody reads them, else None. ``caches`` are of those who
    draw, the student first.
    """

    step: jax.Array
    start_B: jax.Array
    caches: tuple[cache.KV, ...]
    token_B: jax.Array
    count_B: jax.Array
    done_B: jax.Array
    finished_B: jax.Array
    tokens_BL: jax.Array
    logp_BL: jax.Array
    states_BKD: jax.Array | None = None
