"""A teacher that reads another prompt than the student before the same response."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import runs
from contexts import MODEL, OWN, PARAMS, PROMPTS, RESPONSES, batch, dataset
from jopd.batches import asking, collect
from jopd.training import loop as train
from jopd.training import step
from jopd.types import GOLD, Rollout

pytestmark = pytest.mark.usefixtures("plain_charts")

hidden_states = jax.jit(
    functools.partial(step.hidden_states, MODEL), static_argnames="name"
)


def expected(prompt, response):
    """Hidden states that predict the response, from the row written out by hand."""
    tokens = jnp.asarray([[*prompt, *response]])
    rollout = Rollout(
        tokens_BT=tokens,
        prompt_length_B=jnp.asarray([len(prompt)]),
        length_B=jnp.asarray([tokens.shape[1]]),
        finished_B=jnp.asarray([True]),
        behavior_logp_BT=jnp.zeros(tokens.shape),
        source_BT=jnp.full(tokens.shape, GOLD),
        group_B=jnp.zeros(1, jnp.int32),
        age_B=jnp.zeros(1, jnp.int32),
    )
    hidden = hidden_states(PARAMS, asking.batch_of(rollout))[0]
    return hidden[len(prompt) - 1 : len(prompt) - 1 + len(response)]


def test_states_stand_where_the_student_has_its_response():
    seen = collect.with_prompts(batch(), {"teacher": dataset(OWN)})
    hidden = hidden_states(PARAMS, seen, name="teacher")
    assert hidden.shape[:2] == seen.rollout.tokens_BT.shape
    for row, (own, response) in enumerate(zip(OWN, RESPONSES)):
        first = len(PROMPTS[row]) - 1
        np.testing.assert_allclose(
            hidden[row, first : first + len(response)],
            expected(own, response),
            atol=2e-6,
        )


def test_the_student_still_reads_its_own():
    seen = collect.with_prompts(batch(), {"teacher": dataset(OWN)})
    np.testing.assert_array_equal(
        hidden_states(PARAMS, seen),
        hidden_states(PARAMS, batch()),
    )


def test_equal_prompts_change_nothing():
    seen = collect.with_prompts(batch(), {"teacher": dataset(PROMPTS)})
    mask = np.asarray(batch().mask_BT)
    through = np.roll(mask, -1, axis=1)
    np.testing.assert_allclose(
        hidden_states(PARAMS, seen, name="teacher")[through],
        hidden_states(PARAMS, batch())[through],
        atol=2e-6,
    )


def test_a_run_with_replayed_rows_logs_peers_and_leaks(models, tmp_path):
    config = runs.config(
        models,
        "sdpo",
        steps=3,
        rollout__prompts_per_step=4,
        mix__replay=0.5,
        eval__verifier="runs.begins_with_digit",
        log__leak_pattern="^.",
        **runs.PEERS,
    )
    summary = train.run(config, tmp_path / "run")
    rows = runs.updates(tmp_path / "run")
    assert max(row["peer/rows"] for row in rows) > 0
    for row in rows:
        # A success serves the other row of its group only.
        assert 0 <= row["peer/rows"] <= row["peer/groups"] <= 1
        assert 0 < row["leak/rate"] <= 1 and np.isfinite(row["loss"])
        assert row["peer/too_long"] == 0
    assert 0 < summary["after"]["leak_rate"] <= 1
