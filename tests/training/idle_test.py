"""Terms that get nothing are said once, after a few updates without."""

from types import SimpleNamespace as Fake

import pytest

from jopd.losses.panel import Panel
from jopd.setup import builders
from jopd.setup.config import base_config
from jopd.training import idle

GROUPS = dict(signal="policy_gradient", other=None, advantage="group_reward")
SPECS = {
    "gold": dict(signal="nll", source="gold"),
    "grpo": GROUPS,
    "opd": dict(signal="policy_gradient"),
    "far": dict(signal="nll", weights={"log_ratio_above": {"threshold": 1.0}}),
    "routed": dict(signal="reverse_kl", other="expert"),
    "guided": dict(signal="reverse_kl", other="steered"),
}
# Of a term: what is logged, and what is said of it.
NOTHING = {
    "gold": ({"tokens/gold": 0}, "tokens/gold=0, no token is of source 'gold'"),
    "grpo": (
        {"advantage/grpo_min": 0.0, "advantage/grpo_max": 0.0, "reward/mean": 1.0},
        "the rewards of every group are equal (reward/mean=1.0)",
    ),
    "opd": (
        {"advantage/opd_min": 0.0, "advantage/opd_max": 0.0},
        "its advantages are 0 on every token",
    ),
    "far": ({"weight/far": 0.0}, "weight/far=0, its weights leave every token out"),
    "routed": (
        {"tokens/routed": 0, "unserved/routed": 4},
        "no row follows the route of expert",
    ),
    "guided": (
        {"tokens/guided": 0, "unserved/guided": 4},
        "no row has rollouts for both sides of steered",
    ),
}
SOME = {
    "gold": {"tokens/gold": 7},
    "grpo": {"advantage/grpo_min": -1.0, "advantage/grpo_max": 0.0},
    "opd": {"advantage/opd_min": 0.0, "advantage/opd_max": 0.1},
    "far": {"weight/far": 0.01},
    "routed": {"tokens/routed": 3, "unserved/routed": 4},
    "guided": {"tokens/guided": 3, "unserved/guided": 4},
}


def said(name: str, rows: list[dict], **changes) -> list[list[str]]:
    """What is said after each of some updates of a run with one term."""
    config = base_config()
    config.loss[name] = SPECS[name]
    config.update_from_flattened_dict(changes)
    terms, counts = builders.build_terms(config), {}
    steered = Panel("steered", ("reference",), kind="guided", plus="p", minus="m")
    e = Fake(config=config, terms=terms, panels=(steered,))
    return [idle.idle_terms(e, {f"tokens/{name}": 9} | row, counts) for row in rows]


@pytest.mark.parametrize("name", SPECS)
def test_a_term_without_anything_is_said_once(name):
    nothing, why = NOTHING[name]
    found = said(name, [nothing] * 6)
    assert found == [[], [], [f"loss.{name} gets nothing: {why}"], [], [], []]
    assert said(name, [nothing, nothing, SOME[name]] * 3 + [nothing]) == [[]] * 10


@pytest.mark.parametrize("name", SPECS)
def test_a_term_that_gets_some_is_not(name):
    assert said(name, [SOME[name]] * 6) == [[]] * 6


def test_a_run_of_one_update_says_it_at_once():
    nothing, _ = NOTHING["gold"]
    ((line,),) = said("gold", [nothing], steps=1)
    assert line.startswith("loss.gold gets nothing")


def test_rows_that_come_by_turns_are_waited_for():
    nothing, _ = NOTHING["gold"]
    changes = {"mix.on_policy_probability": 0.5}
    assert said("gold", [nothing] * 9, **changes) == [[]] * 9
