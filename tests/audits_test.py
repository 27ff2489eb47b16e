"""What a prior does to an audit: numbers of known draws, and one real audit."""

import sys

import numpy as np
import pytest

import runs

sys.path.insert(0, str(runs.ROOT / "tools"))  # a folder of commands, not a package
import audits
import gradients


def known(repeats: int, chunks: int = 400, seed: int = 0):
    """Similarities of deviation 0.2 around means of deviation 0.1; a prior beside."""
    rng = np.random.default_rng(seed)
    truth_C, prior_C = 0.3 + 0.1 * rng.standard_normal((2, chunks))
    return truth_C + 0.2 * rng.standard_normal((repeats, chunks)), prior_C


@pytest.mark.parametrize("samples, alpha", [(1, 0.0), (4, 0.0), (2, 1.0), (4, 4.0)])
def test_moments_of_known_draws(samples, alpha):
    found = audits.spread(*known(500), samples, alpha)
    part, scatter = samples / (samples + alpha), 0.2 * samples**0.5 / (samples + alpha)
    shift = (1 - part) * (2 * 0.1**2) ** 0.5
    seen = (part * 0.1) ** 2 + ((1 - part) * 0.1) ** 2 + scatter**2
    assert found.scatter == pytest.approx(scatter, rel=0.02)
    assert found.shift == pytest.approx(shift, rel=0.1)
    assert found.error == pytest.approx((scatter**2 + shift**2) ** 0.5, rel=0.1)
    assert found.agrees == pytest.approx(part * 0.1 / seen**0.5, abs=0.05)


def test_few_repeats_find_the_same_agreement():
    """Their means scatter; without the correction 8 repeats would say .79 for .45."""
    few = [audits.spread(*known(8, seed=s), 1, 0.0).agrees for s in range(20)]
    assert np.mean(few) == pytest.approx(5**-0.5, abs=0.03)


def test_what_it_says_of_one_audit_is_what_two_audits_show():
    """Groups of 4 of the repeats, formed by hand: their scatter and mean."""
    alike_RC, prior_C = known(800)
    posterior = (alike_RC.reshape(200, 4, -1).sum(1) + prior_C) / 5
    found = audits.spread(alike_RC, prior_C, 4, 1.0)
    assert found.scatter == pytest.approx(
        posterior.var(0, ddof=1).mean() ** 0.5, rel=0.02
    )
    shift = np.mean((posterior.mean(0) - alike_RC.mean(0)) ** 2) ** 0.5
    assert found.shift == pytest.approx(shift, rel=1e-6)


@pytest.mark.slow
def test_audits_of_a_real_pair():
    words = ["--config=omniopd", "--config.rollout.prompts_per_step=2"]
    _, (case,) = gradients.read_words(words)
    case.config.audit.samples = 1
    alike_RC, prior_C = audits.audited(case.config, 3)
    assert alike_RC.shape == (3, len(prior_C)) and 8 <= len(prior_C) <= 24
    assert np.all((alike_RC >= 0) & (alike_RC <= 1)) and len(np.unique(alike_RC)) > 2
    assert np.all((prior_C > 0) & (prior_C < 1))
    assert np.any(alike_RC[0] != alike_RC[1])  # other continuations, the same chunks
