"""Signals hand on what a config gives them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jopd.losses import divergences, signals
from jopd.types import Outputs

V = 9
STUDENT, TEACHER, OTHER = np.random.default_rng(0).normal(size=(3, 4, V)) * 2
LOGITS = {
    name: jnp.asarray(x, jnp.float32)
    for name, x in dict(student=STUDENT, teacher=TEACHER, second=OTHER).items()
}
OUTPUTS = Outputs(LOGITS, jnp.zeros(4, jnp.int32), jnp.zeros(4))


@pytest.mark.parametrize("renormalize", ["none", "teacher", "both"])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd"])
def test_top_k_signals(name, renormalize):
    beta = dict(beta=0.3) if name == "jsd" else {}
    given = dict(tail=False, renormalize=renormalize, **beta)
    signal = getattr(signals, f"top_k_{name}")
    function = getattr(divergences, f"top_k_{name}")
    got = signal(OUTPUTS, k=3, other="second", **given)
    want = function(LOGITS["student"], LOGITS["second"], k=3, **given)
    np.testing.assert_array_equal(got, want)
    got, want = (signal(OUTPUTS, k=k, **beta) for k in (500, V))
    np.testing.assert_array_equal(got, want)


def test_restricted_kl():
    got = signals.restricted_kl(
        OUTPUTS,
        direction="jsd",
        jsd_alpha=0.2,
        support="union",
        k=2,
        form="tail",
        other="second",
    )
    want = divergences.on_support(
        LOGITS["student"],
        LOGITS["second"],
        direction="jsd",
        jsd_alpha=0.2,
        support="union",
        k=2,
        form="tail",
    )
    np.testing.assert_array_equal(got, want)
    got = signals.restricted_kl(OUTPUTS, support="ids", ids=(4, 1), form="naive")
    want = divergences.on_support(
        LOGITS["student"],
        LOGITS["teacher"],
        support=(4, 1),
        direction="reverse_kl",
        form="naive",
    )
    np.testing.assert_array_equal(got, want)
    for given in (dict(ids=(4, 1)), dict(support="ids")):
        with pytest.raises(ValueError, match="ids belong to support='ids', which need"):
            signals.restricted_kl(OUTPUTS, k=2, **given)
