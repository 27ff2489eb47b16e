"""Log-probabilities of given tokens, of several rows at a time."""

from collections.abc import Sequence

import jax
import numpy as np

from jopd.models import decoder
from jopd.setup import config, experiment
from jopd.setup.model import Model, padded
from jopd.teachers import likely
from jopd.teachers.likely import Scores

ROWS = 16  # that are read at one time


def read(
    model: Model,
    rows: Sequence[Sequence[int]],
    k: int = 0,
    asked: Sequence[np.ndarray] | None = None,
) -> list[Scores]:
    """Of tokens 1 to T - 1 of every row, with the ``k`` likeliest at each place.

    Or, with ``asked``, the ids i32[T - 1, k] of each row: their log-probabilities. Few
    shapes: widths, rows and k are rounded up to powers of two.

    Raises:
      ValueError: a row without tokens, or longer than the model's positions.
    """
    room, size = model.config.max_positions, model.config.vocab_size
    for row in rows:
        if not 0 < len(row) <= room:
            raise ValueError(
                f"a text of {len(row)} tokens; {model.path} reads 1 to {room}"
            )
    found: dict[int, Scores] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    chunk = experiment.chunk_tokens(config.base_config(), size)
    cut = dict(columns=size, chunk=chunk)
    cut["k"] = most = min(1 << (k - 1).bit_length(), size) if k else 0
    for first in range(0, len(rows), ROWS):
        some = order[first : first + ROWS]
        width = padded(max(len(rows[i]) for i in some), room)
        tokens_BT = np.zeros((1 << (len(some) - 1).bit_length(), width), np.int32)
        length_B = np.zeros(len(tokens_BT), np.int32)
        wanted_BTK = None
        if asked is not None:
            wanted_BTK = np.zeros((len(tokens_BT), width - 1, most), np.int32)
        for b, i in enumerate(some):
            tokens_BT[b, : len(rows[i])], length_B[b] = rows[i], len(rows[i])
            if asked is not None:
                wanted_BTK[b, : len(rows[i]) - 1, :k] = asked[i]
        given = model.params, tokens_BT, length_B, wanted_BTK
        answers = likely.scores(decoder.Decoder(model.config), *given, **cut)
        answers = jax.device_get(answers)
        for b, i in enumerate(some):
            logp, ids, logps = (leaf[b, : len(rows[i]) - 1] for leaf in answers)
            found[i] = Scores(logp, ids[:, :k], logps[:, :k])
    return [found[i] for i in range(len(rows))]
