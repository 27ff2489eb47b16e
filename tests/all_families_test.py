"""What a family adds must reach all rooms: every place that makes logits, and a run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import runs
import tiny
from jopd.losses import objective, signals
from jopd.losses.objective import Term
from jopd.models import decoder, hf
from jopd.rollouts import generate, sampling
from jopd.setup import experiment
from jopd.setup import model as one_model
from jopd.training import loop as train
from jopd.training import step

CAPS = {"student": 0.5, "teacher": 2.0}
CAPPED = decoder.Decoder(tiny.config(logit_cap=CAPS["student"]))

# Switches of a family that writes them into a config.json, for models of ``runs``.
GEMMA = dict(
    layers=2,
    post_norm=True,
    norm_offset=1.0,
    attention_scale=20**-0.5,
    embed_scale=4.0,
    logit_cap=30.0,
    activation="gelu_pytorch_tanh",
    sliding_window=16,
)
FAMILIES = {
    "gemma2": GEMMA | dict(attention_cap=20.0, sliding_layers=(True, False)),
    "gemma3_text": GEMMA
    | dict(qk_norm=True, sliding_layers=(True, False), local_rope_theta=1e3),
    "olmo3": dict(
        layers=2,
        pre_norm=False,
        post_norm=True,
        qk_norm_wide=True,
        sliding_window=16,
        sliding_layers=(False, True),
    ),
    "qwen3_moe": dict(
        qk_norm=True, ffn=16, experts=4, experts_per_token=2, router_normalized=False
    ),
    "mixtral": dict(experts=4, experts_per_token=2, router_normalized=True),
    "granite": dict(
        attention_scale=0.1, embed_scale=3.0, residual_scale=0.5, logit_divisor=2.0
    ),
}


def plain(name: str, hidden, head):
    """Capped logits, written out."""
    rows = hidden.astype(jnp.float32) @ head[: tiny.VOCABULARY].T
    return CAPS[name] * jnp.tanh(rows / CAPS[name])


def test_a_cap_is_part_of_all_logits_of_the_loss():
    batch, rng = tiny.batch(), np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    hidden = {name: draw(*batch.mask_BT.shape, 8) for name in CAPS}
    heads = {name: draw(tiny.VOCABULARY + 2, 8) for name in CAPS}
    terms = (Term("kl", signals.reverse_kl),)
    cut = dict(vocabulary=tiny.VOCABULARY, chunk_tokens=7, strip_tokens=4)
    cut["caps"] = tuple(CAPS.items())

    facts = objective.facts(hidden, heads, batch, **cut)
    weighed = objective.weigh(terms, objective.scores(batch, facts))
    tokens_BT1 = batch.rollout.tokens_BT[..., None]
    for name in CAPS:
        rows = jax.nn.log_softmax(plain(name, hidden[name], heads[name]))
        logp_BT = jnp.take_along_axis(objective.align(rows), tokens_BT1, -1)[..., 0]
        want = jnp.where(batch.mask_BT, logp_BT, 0)
        got = jnp.where(batch.mask_BT, facts[f"logp/{name}"], 0)
        np.testing.assert_allclose(got, want, atol=1e-5)

    def ours(own, head):
        others = {"teacher": hidden["teacher"]}, {"teacher": heads["teacher"]}
        return objective.objective(
            own, head, *others, batch, weighed, {"kl": 1.0}, terms=terms, **cut
        )[0]

    def theirs(own, head):
        logits = {
            "student": plain("student", own, head),
            "teacher": plain("teacher", hidden["teacher"], heads["teacher"]),
        }
        logits = {name: objective.align(rows) for name, rows in logits.items()}
        value_BT = terms[0].signal(objective.Outputs(logits, tokens_BT1[..., 0], None))
        return jnp.sum(jnp.where(batch.mask_BT, weighed["kl"].weight_BT * value_BT, 0))

    given = hidden["student"], heads["student"]
    for got, want in zip(
        jax.tree.leaves(jax.value_and_grad(ours, argnums=(0, 1))(*given)),
        jax.tree.leaves(jax.value_and_grad(theirs, argnums=(0, 1))(*given)),
    ):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_cap_is_part_of_what_is_drawn_and_of_what_checks_it():
    params = tiny.params(CAPPED.config, 3)
    tokens_BP = np.random.default_rng(0).integers(0, tiny.VOCABULARY, (4, 3))
    asked = generate.request(tokens_BP.astype(np.int32), np.full(4, 3), limit=6)
    write = functools.partial(
        generate.generate,
        model=CAPPED,
        max_new_tokens=6,
        stop_ids=(),
        vocabulary=tiny.VOCABULARY,
    )
    rolled = jax.jit(write)(params, asked, jax.random.key(0))
    ids_BT = rolled.tokens_BT
    logits_BTV = one_model._logits(CAPPED, params, ids_BT)
    positions_BT = jnp.broadcast_to(jnp.arange(9), ids_BT.shape)
    hidden_BTD, _ = CAPPED.apply({"params": params}, ids_BT, positions_BT, ids_BT >= 0)
    own_BTV = plain("student", hidden_BTD, params["head"])
    np.testing.assert_allclose(logits_BTV[..., : tiny.VOCABULARY], own_BTV, atol=1e-5)

    rows = jax.nn.log_softmax(own_BTV[:, 2:-1])
    want = jnp.take_along_axis(rows, ids_BT[:, 3:, None], -1)[..., 0]
    np.testing.assert_allclose(rolled.behavior_logp_BT[:, 3:], want, atol=1e-5)
    shape = step.Shape(tiny.VOCABULARY, chunk_tokens=10)
    replay = step.make_replay_logp(CAPPED, sampling.Filter(), shape)
    batch = tiny.batch(rows=4)._replace(rollout=rolled, mask_BT=positions_BT >= 3)
    np.testing.assert_allclose(replay(params, batch)[:, 3:], want, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_of_each_family(family, tmp_path, plain_charts):
    """Sampler and trainer agree; what is exported has the student's switches."""
    changes = FAMILIES[family]
    runs.make_model(tmp_path / "student", seed=1, **changes)
    runs.make_model(tmp_path / "teacher", seed=2, **changes)
    more = dict(log__check_sampler_every_steps=1, eval__prompts=0)
    config = runs.config(tmp_path, "opd", **more)
    built = experiment.build(config)
    shape = hf.load_config(tmp_path / "student")
    for name in ("student", "teacher"):
        assert dict(built.shape.caps)[name] == changes.get("logit_cap", 0)
        assert built.models[name].config.logit_cap == changes.get("logit_cap", 0)
    train.run(config, tmp_path / "run")
    rows = runs.updates(tmp_path / "run")
    assert rows and all(np.isfinite(row["loss"]) for row in rows)
    gaps = [row["check/sampler_gap_max"] for row in rows]
    assert max(gaps) < 1e-5
    assert hf.load_config(tmp_path / "run" / "export") == shape
