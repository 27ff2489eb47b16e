"""When a gated teacher takes over the student: after a gain, with a safe length tail.

Consolidation-gated teacher refresh, CGTR (arXiv:2606.03532): between two copies the
teacher stands still. It is looked at every ``check_steps`` updates and becomes the
student only if enough updates have passed, the mean reward of the latest ones lies
above that of the last copy, and no rollout among them was far longer than the mean. A
copy on a clock is what the paper reports to collapse.

The paper's text bounds the longest rollout absolutely, its appendix and its ablation by
the ratio to the mean: the numbers only make sense as a ratio. What the reward is
compared with before the first copy is not stated; here it is the first full window
(inferred).

Everything here is a function of Python numbers, which travel with the run's record.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Outcome(NamedTuple):
    """What the fresh rollouts of one update were like.

    Attributes:
      reward: mean over rows.
      longest, mean_length: of responses, in tokens.
    """

    reward: float
    longest: float
    mean_length: float


class Gate(NamedTuple):
    """What one gated teacher remembers.

    Attributes:
      step: update after which the student was copied last; 0: the initial student.
      reward_then: mean reward of the window at that copy; before the first one, of the
        first full window. None until there is one.
      recent: the latest outcomes, the oldest first, as lists for JSON.
    """

    step: int = 0
    reward_then: float | None = None
    recent: Sequence[Sequence[float]] = ()


def observe(gate: Gate, outcome: Outcome, *, window: int) -> Gate:
    """The gate after one more update with fresh rollouts; it keeps ``window``."""
    gate = gate._replace(recent=[*gate.recent, list(outcome)][-window:])
    if gate.reward_then is None and len(gate.recent) == window:
        return gate._replace(reward_then=reward(gate))
    return gate


def reward(gate: Gate) -> float | None:
    """Mean reward of the window as far as it is filled, None of an empty one."""
    return _mean([Outcome(*one).reward for one in gate.recent])


def tail(gate: Gate) -> float | None:
    """Longest response of the window over its mean length; None of an empty one."""
    seen = [Outcome(*one) for one in gate.recent]
    mean_length = _mean([one.mean_length for one in seen])
    return max(one.longest for one in seen) / mean_length if mean_length else None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def is_open(
    gate: Gate,
    step: int,
    *,
    every_steps: int,
    check_steps: int,
    reward_margin: float,
    tail_ratio: float,
) -> bool:
    """Whether the teacher may become the student after update ``step``.

        step % check_steps == 0  and  step - step_then >= every_steps
        reward > reward_then + reward_margin  and  tail <= tail_ratio

    The margin is exclusive, so that a flat reward opens nothing even at 0; shut until
    the first window is full. ``reward_margin=-inf``, ``tail_ratio=inf`` and
    ``check_steps=1`` leave the clock alone, a snapshot; ``reward_margin=inf`` the
    initial student.

    Args:
      gate: as ``observe`` left it at this update.
    """
    due = step % check_steps == 0 and step - gate.step >= every_steps
    if not due or gate.reward_then is None:
        return False
    # Empty responses have no tail.
    safe = (tail(gate) or 0.0) <= tail_ratio
    return reward(gate) > gate.reward_then + reward_margin and safe


def passed(gate: Gate, step: int) -> Gate:
    """The gate after the student was copied at ``step``."""
    return gate._replace(step=step, reward_then=reward(gate))
