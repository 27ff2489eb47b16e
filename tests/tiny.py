"""Small models and batches that several test files share."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jopd.losses import objective
from jopd.losses.objective import response_mask
from jopd.models import decoder, sharding
from jopd.setup import builders
from jopd.types import GOLD, STUDENT, TEACHER, Batch, Rollout, Scores

VOCABULARY = 20


def config(**changes) -> decoder.DecoderConfig:
    """Two layers, a head that is wider than the vocabulary."""
    plain = {
        "vocab_size": 24,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 8,
        "ffn": 24,
        "max_positions": 64,
    }
    return decoder.DecoderConfig(**(plain | changes))


def params(shape: decoder.DecoderConfig, seed: int, scale: float = 0.3):
    """Random parameters of some size, so that logits differ; nothing to compile."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: decoder.init(shape, jax.random.key(0)))

    def draw(path, leaf):
        centre = 1.0 if "norm" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(rng.normal(centre, scale, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def audit(mask_BT) -> dict:
    """Facts as an audit leaves them: the first two tokens of a row are its chunk."""
    first_BT = mask_BT & (np.cumsum(mask_BT, axis=1) <= 2)
    return {
        "chunk": jnp.asarray(np.where(first_BT, 0, -1), jnp.float32),
        "similarity": jnp.asarray(np.where(first_BT, 1.5, 0), jnp.float32),
    }


def has_context(mask_BT):
    """Every row but the last of each three is read in its context."""
    rows_B1 = np.arange(len(mask_BT))[:, None]
    return jnp.asarray(np.where(mask_BT, rows_B1 % 3 < 2, 0), jnp.float32)


def teacher_pass(mask_BT):
    """A teacher that answers the prompts of the first four rows, not of others."""
    rows_B1 = np.arange(len(mask_BT))[:, None]
    return jnp.asarray(np.where(mask_BT, rows_B1 < 4, 0), jnp.float32)


def batch(seed: int = 0, *, rows: int = 6, width: int = 9, vocabulary=VOCABULARY):
    """Rows of mixed lengths and sources; one has no response, one is full."""
    rng = np.random.default_rng(seed)
    prompt_B = rng.integers(1, 4, rows)
    length_B = prompt_B + rng.integers(1, width - 3, rows)
    length_B[0] = width
    length_B[1] = prompt_B[1]
    source_BT = np.full((rows, width), STUDENT)
    source_BT[2] = GOLD
    source_BT[3, : prompt_B[3] + 1] = TEACHER
    mask_BT = np.asarray(response_mask(source_BT, prompt_B, length_B))
    behavior_BT = np.where(mask_BT, -rng.uniform(1, 4, (rows, width)), 0)
    rollout = Rollout(
        tokens_BT=jnp.asarray(rng.integers(0, vocabulary, (rows, width)), jnp.int32),
        prompt_length_B=jnp.asarray(prompt_B, jnp.int32),
        length_B=jnp.asarray(length_B, jnp.int32),
        finished_B=jnp.asarray(rng.integers(0, 2, rows) > 0),
        behavior_logp_BT=jnp.asarray(behavior_BT, jnp.float32),
        source_BT=jnp.asarray(source_BT, jnp.int32),
        group_B=jnp.arange(rows, dtype=jnp.int32) // 2,
        age_B=jnp.asarray(rng.integers(0, 4, rows), jnp.int32),
    )
    # Both values in a group of two: a reward that is compared has something to say.
    reward_B = jnp.arange(rows, dtype=jnp.float32) % 2
    uniform_BT = jnp.asarray(rng.uniform(size=(rows, width)), jnp.float32)
    return Batch(
        rollout,
        jnp.asarray(mask_BT),
        reward_B,
        rollout.group_B,
        uniform_BT=uniform_BT,
        extra=audit(mask_BT)
        | {"has_context/self": has_context(mask_BT)}
        | {"teacher_pass": teacher_pass(mask_BT)},
    )


def scores(mask_BT, **fields) -> Scores:
    """Scores of a mask, student tokens all of them; arrays as float32 and int32."""
    rows, width = np.shape(mask_BT)
    zeros_BT, zeros_B = np.zeros((rows, width)), np.zeros(rows)
    named = dict.fromkeys(("student", "teacher"), zeros_BT)
    plain = {
        "mask": mask_BT,
        "tokens": np.zeros((rows, width), int),
        "source": np.full((rows, width), STUDENT),
        "position": np.cumsum(mask_BT, axis=1) - 1,
        "logp": named,
        "entropy": named,
        "reverse_kl": named,
        "forward_kl": named,
        "behavior_logp": zeros_BT,
        "finished": np.ones(rows, bool),
        "reward": zeros_B,
        "group": np.arange(rows),
        "age": zeros_B.astype(int),
        "uniform": zeros_BT,
    }
    return jax.tree.map(jnp.asarray, Scores(**(plain | fields)))


def random_scores(seed: int = 0, **fields) -> Scores:
    """Three groups of three rows: one row without tokens, one gold, unequal lengths.

    The first group is all right, the second and the third are mixed.
    """
    rng = np.random.default_rng(seed)
    rows, width = 9, 6
    mask_BT = np.arange(width) < np.asarray([6, 3, 4, 0, 5, 2, 6, 4, 6])[:, None]
    source_BT = np.full((rows, width), STUDENT)
    source_BT[8] = GOLD
    draw = lambda *names: {name: rng.uniform(0, 3, (rows, width)) for name in names}
    logp = draw("student", "teacher", "reference")
    plain = {
        "source": source_BT,
        "logp": {name: -value for name, value in logp.items()},
        "entropy": draw("student", "teacher", "reference"),
        "reverse_kl": draw("teacher", "reference"),
        "forward_kl": draw("teacher", "reference"),
        "behavior_logp": -rng.uniform(0, 3, (rows, width)),
        "reward": np.asarray([1.0, 1, 1, 0, 1, 0, 1, 0, 1]),
        "group": np.arange(rows) // 3,
    }
    return scores(mask_BT, **(plain | fields))


def weighed(scores: Scores, **spec) -> objective.Weighed:
    """Weights and advantages that a term with the keys of a config has on scores."""
    term = builders.build_term("one", ConfigDict(spec), "tokens")
    return objective.weigh((term,), scores)["one"]


def rows_over(devices: int):
    """Where rows lie on so many devices; None, as in ``Shape``, for one."""
    if devices == 1:
        return None
    return sharding.rows(sharding.make_mesh(devices, 1, 1))
