"""REOPOLD (arXiv:2603.11137): the floor of the log-ratio, and who lies above it."""

import math

import jax

from jopd.losses import weights
from jopd.types import Scores

FORMS = ("odds", "scaled")


def floor(lam: float, form: str = "odds") -> float:
    """The lowest log-ratio that counts, in nats; -inf for ``lam`` 0.

    ``odds`` is log(lam / (1 - lam)), of two sources, ``scaled`` log(lam) / (1 - lam),
    of one. Raises ValueError for another form, unless 0 <= lam < 1, or
    for odds above 0.5, whose floor would be positive.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r} is unknown; use one of {', '.join(FORMS)}")
    if not 0 <= lam < 1 or (form == "odds" and lam > 0.5):
        raise ValueError(
            f"the floor needs 0 <= lam < 1, got lam={lam}; with form='odds' at most "
            "0.5, above it every token would be pushed up; 0.3 is usual"
        )
    if lam == 0:
        return -math.inf
    below = math.log1p(-lam)
    return math.log(lam) - below if form == "odds" else math.log(lam) / (1 - lam)


def floored(
    scores: Scores, *, lam: float, form: str = "odds", other: str = "teacher"
) -> jax.Array:
    """Advantage max(log other(y) - log student(y), floor), equation 7."""
    return weights.log_ratio(scores, other=other, floor=floor(lam, form))


def trusted(
    scores: Scores, *, lam: float, form: str = "odds", other: str = "teacher"
) -> jax.Array:
    """1 where the log-ratio is at least the floor: the mask of the first stage."""
    limit = floor(lam, form)
    return weights.log_ratio_above(scores, threshold=limit, other=other)
