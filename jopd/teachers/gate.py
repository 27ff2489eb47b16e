"""When a gated teacher takes over the student: after a gain, with a safe length tail.

Competence-gated refresh, CGTR (arXiv:2606.03532): between two copies the teacher stands
still; it is refreshed only if the reward has risen since the last copy and the tail of
the response lengths has not. The abstract says as much. The numbers (shares, margins,
the quantile, how long it must stand still) are in no source that we have: every one of
them is inferred, and a key of the config.

Everything here is a function of Python numbers, which travel with the run's record.
"""

import math
from typing import NamedTuple


class Outcome(NamedTuple):
    """What the fresh rollouts of one update were like.

    Attributes:
      reward: mean over rows.
      length: 95th percentile of response tokens.
      truncation: share of rows without an end, in [0, 1].
    """

    reward: float
    length: float
    truncation: float


class Gate(NamedTuple):
    """What one gated teacher remembers; None before the first rollouts.

    Attributes:
      step: update after which the student was copied last; 0: the initial student.
      reward: moving average of the mean reward.
      reward_then, length_then: average and 95th percentile as of that copy; those of
        the first rollouts, which the initial student wrote, stand for it.
    """

    step: int = 0
    reward: float | None = None
    reward_then: float | None = None
    length_then: float | None = None


def observe(gate: Gate, outcome: Outcome, *, rate: float) -> Gate:
    """One more update: ``reward <- (1 - rate) reward + rate outcome.reward``."""
    if gate.reward is None:
        return gate._replace(
            reward=outcome.reward,
            reward_then=outcome.reward,
            length_then=outcome.length,
        )
    return gate._replace(reward=gate.reward + rate * (outcome.reward - gate.reward))


def is_open(
    gate: Gate,
    outcome: Outcome,
    step: int,
    *,
    every_steps: int,
    reward_margin: float,
    length_growth: float,
    max_truncation: float,
) -> bool:
    """Whether the teacher may become the student after update ``step``.

        step - step_then >= every_steps    and  reward >= reward_then + reward_margin
        length <= (1 + length_growth) length_then  and  truncation <= max_truncation

    All four inclusive. ``reward_margin=-inf``, ``length_growth=inf`` and
    ``max_truncation=1`` leave the clock alone, a snapshot.

    Args:
      gate: as ``observe`` left it at this update.
    """
    return (
        step - gate.step >= every_steps
        and gate.reward >= gate.reward_then + reward_margin
        and outcome.length <= _grown(gate.length_then, length_growth)
        and outcome.truncation <= max_truncation
    )


def _grown(length: float, growth: float) -> float:
    return math.inf if math.isinf(growth) else (1 + growth) * length


def passed(gate: Gate, outcome: Outcome, step: int) -> Gate:
    """The gate after the student was copied at ``step``."""
    return Gate(step, gate.reward, gate.reward, outcome.length)
