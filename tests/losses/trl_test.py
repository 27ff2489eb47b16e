"""Losses beside those of TRL, called as they are there: values and gradients.

Random logits of 64 states and 500 tokens, float64 on both sides. TRL has no function
for GRPO's loss: its trainer's method runs here on a stand-in for the trainer.
"""

import os
from collections import defaultdict
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exact
from jopd.losses import signals, weights
from jopd.methods import sdpo
from jopd.types import Outputs

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
torch = pytest.importorskip("torch")
pytest.importorskip("trl")

STATES, V = 64, 500
ALPHAS = (0.0, 0.5, 1.0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def batch():
    """Logits of two models, tokens, and log-probabilities at an older student."""
    rng = np.random.default_rng(0)
    student, teacher, older = rng.normal(size=(3, STATES, V)) * 2
    tokens = rng.integers(0, V, STATES)
    older = np.array(
        [exact.log_softmax(s + o / 4) for s, o in zip(student, older, strict=True)]
    )
    return student, teacher, tokens, older[np.arange(STATES), tokens]


def ours(signal, batch, advantage=None):
    """Loss of each state and the gradient of their sum in the student's logits."""
    student, teacher, tokens, behavior = map(jnp.asarray, batch)

    def losses(student):
        logits = {"student": student, "teacher": teacher}
        found = signal(Outputs(logits, tokens, behavior, advantage))
        return jnp.sum(found), found

    gradient, found = jax.grad(losses, has_aux=True)(student)
    return found, gradient


def theirs(loss, batch):
    student, teacher, tokens, behavior = map(torch.tensor, batch)
    student.requires_grad_(True)
    found = loss(student, teacher, tokens, behavior)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    return found.detach().numpy(), gradient.numpy()


def assert_equal(mine, peers):
    for got, want in zip(mine, peers, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9)
        assert np.abs(want).max() > 1e-3


@pytest.mark.parametrize("k", [20, 100])
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("tail", [True, False])
def test_sdpo(tail, alpha, k, batch):
    from trl.experimental.sdpo import loss_utils
    from trl.trainer.utils import selective_log_softmax

    def loss(student, teacher, tokens, behavior):
        value = loss_utils.compute_topk_self_distillation_loss(
            student,
            teacher,
            distillation_topk=k,
            distillation_alpha=alpha,
            distillation_add_tail=tail,
        )
        logp = selective_log_softmax(student, tokens)
        return loss_utils.apply_importance_sampling_clipping(value, logp, behavior, 1.2)

    def signal(outputs):
        renormalize = "none" if tail else "both"
        return sdpo.distil(
            outputs, alpha=alpha, k=k, is_clip=1.2, renormalize=renormalize
        )

    assert_equal(ours(signal, batch), theirs(loss, batch))


WHOLE = {0.0: signals.forward_kl, 0.5: signals.jsd, 1.0: signals.reverse_kl}


@pytest.mark.parametrize("alpha", ALPHAS)
def test_sdft(alpha, batch):
    from trl.experimental.sdft import loss_utils

    def loss(student, teacher, tokens, behavior):
        return loss_utils.compute_full_logit_self_distillation_loss(
            student, teacher, distillation_alpha=alpha
        )

    assert_equal(ours(WHOLE[alpha], batch), theirs(loss, batch))


def test_sdft_on_the_students_top_k(batch):
    from trl.experimental.sdft import loss_utils

    def loss(student, teacher, tokens, behavior):
        return loss_utils.compute_topk_self_distillation_loss(
            student,
            teacher,
            distillation_topk=20,
            distillation_alpha=0.0,
            distillation_add_tail=False,
        )

    def signal(outputs):
        return signals.restricted_kl(
            outputs, direction="forward_kl", support="student", k=20
        )

    assert_equal(ours(signal, batch), theirs(loss, batch))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_gkd(beta, batch):
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    def loss(student, teacher, tokens, behavior):
        found = GKDTrainer.generalized_jsd_loss(
            student[None], teacher[None], beta=beta, reduction="none"
        )
        return found.sum(-1)[0]

    assert_equal(
        ours(lambda outputs: signals.jsd(outputs, beta=beta), batch),
        theirs(loss, batch),
    )


def trainer(logp, **args):
    """What ``GRPOTrainer._compute_loss`` reads of a trainer, around given log-probs."""
    same = lambda x, **_: x
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, 0 * logp, None),
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(num_processes=1, gather=same, reduce=same),
        args=SimpleNamespace(**args),
        loss_type="dapo",
        importance_sampling_level="token",
        beta=0.0,
        epsilon_low=0.2,
        epsilon_high=0.28,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )


@pytest.mark.parametrize("delta", [None, 1.5])
def test_grpo(delta, batch):
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.utils import nanstd, selective_log_softmax

    rng = np.random.default_rng(1)
    reward = rng.normal(size=8)
    reward[4:] = 1.0  # two groups of four rows, eight tokens each; equal: no advantage
    rows = np.zeros((8, exact.V))
    scores = exact.scores_of(np.zeros(exact.V), np.zeros(exact.V), rows)._replace(
        reward=jnp.asarray(reward), group=jnp.arange(8) // 4
    )
    advantage = weights.group_reward(scores, eps=1e-4)[:, 0]
    grouped = torch.tensor(reward).view(2, 4)
    centred = grouped - grouped.mean(1, keepdim=True)
    want = centred / (nanstd(grouped, dim=1, keepdim=True) + 1e-4)
    np.testing.assert_allclose(advantage, want.flatten(), rtol=1e-5, atol=1e-9)

    def loss(student, teacher, tokens, behavior):
        among = lambda x: x.view(8, -1)
        mask = among(torch.ones_like(behavior)).requires_grad_(True)
        inputs = dict(
            prompt_ids=among(tokens)[:, :1],
            prompt_mask=mask[:, :1].detach(),
            completion_ids=among(tokens),
            completion_mask=mask,
            advantages=want.flatten(),
            old_per_token_logps=among(behavior),
            num_items_in_batch=torch.tensor(1.0),
        )
        logp = among(selective_log_softmax(student, tokens))
        total = GRPOTrainer._compute_loss(trainer(logp, delta=delta), None, inputs)
        # A sum over tokens times the mask: its slope in the mask is each token's loss.
        return torch.autograd.grad(total, mask, create_graph=True)[0].flatten()

    def signal(outputs):
        return signals.policy_gradient(
            outputs, other=None, clip_low=0.2, clip_high=0.28, dual_clip=delta
        )

    ratio = np.exp(log_probs(batch) - batch[3])
    assert (ratio > 1.5).any() and (ratio < 0.8).any()  # every clip acts somewhere
    assert_equal(ours(signal, batch, jnp.repeat(advantage, 8)), theirs(loss, batch))


def log_probs(batch):
    """The student's log-probability of each token."""
    student, tokens = batch[0], batch[2]
    rows = zip(student, tokens, strict=True)
    return np.array([exact.log_softmax(row)[token] for row, token in rows])
