"""OGLS-SD's config: which rows it teaches, and from how many sets of parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import runs
import tiny
from jopd.losses import objective
from jopd.models import sharding
from jopd.setup import builders, cast, memory, needs, schedules
from jopd.setup.config import base_config


@functools.cache
def config():
    path = runs.ROOT / "configs" / "ogls_sd.py"
    return runs.runpy.run_path(str(path))["get_config"]()


def test_only_wrong_rows_of_groups_with_both_are_taught():
    (term,) = builders.build_terms(config())
    (panel,) = needs.panels_of(config())
    assert term.models == ("steered",) and len(panel.sides) == 6
    mask_BT = np.arange(4) < np.array([4, 2, 3, 4])[:, None]
    reward = np.array([1.0, 0.0, 0.0, 0.0])
    read = tiny.scores(mask_BT, reward=reward, position=np.arange(4)[None] + 1021)
    read = read._replace(serves={"steered": jnp.array([True, True, True, False])})
    weight_BT = objective.weigh((term,), read)["ogls"].weight_BT
    # Three rows are served, one of them right; tokens from 1024 on are left out.
    want_BT = mask_BT & (np.arange(4) < 3) & np.array([0, 1, 1, 0], bool)[:, None]
    np.testing.assert_allclose(weight_BT, want_BT / 3, rtol=1e-6)
    right = read._replace(reward=jnp.ones(4))
    assert not np.asarray(objective.weigh((term,), right)["ogls"].weight_BT).any()


def test_the_strength_rises_over_the_run():
    (at,) = schedules.strengths(config()).values()
    assert [at(0), at(100), at(200)] == [0.0, 1.5, 3.0]
    fixed = base_config()
    fixed.panels.p = dict(kind="guided", strength=2.0)
    assert schedules.strengths(fixed) == {}


def test_all_readings_are_of_one_set_of_parameters(models):
    made = runs.config(models, "ogls_sd")
    terms = builders.build_terms(made)
    players = cast.choose_cast(made, terms)
    mesh = sharding.make_mesh(-1, 1, 1)
    found, params, _ = cast.load_models(made, players, mesh)
    readers = ["reference", *needs.panels_of(made)[0].sides]
    assert set(found) == {"student", "teacher", *readers}
    for name in readers:
        pairs = zip(jax.tree.leaves(params[name]), jax.tree.leaves(params[readers[0]]))
        assert all(mine is theirs for mine, theirs in pairs)
    counted = [part.name for part in memory._models(made, players, mesh)[0]]
    assert len(counted) == 3 and {"student", "teacher"} < set(counted)
