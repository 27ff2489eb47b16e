"""What a teacher's own scored responses leave in a batch, and who is asked."""

import numpy as np
import pytest

import runs
import tiny
from jopd.methods import tgopd
from jopd.setup import validation
from jopd.teachers import probes

RATE = {0: 1.0, 1: 1 / 3, 2: 2 / 3}
# Rows: a student's without a response, gold, and students' of three prompts.
PROMPT_ID = np.asarray([2, 0, 1, 1, 2, 2])


def asked(ids):
    return np.asarray([RATE[i] for i in ids.tolist()], np.float32)


def batch():
    return tiny.batch()._replace(prompt_id_B=PROMPT_ID)


def test_every_prompt_of_a_student_row_is_asked_once_and_told_to_its_rows():
    calls = []
    annotate = probes.make_annotate(
        lambda ids, step: calls.append((ids.tolist(), step)) or asked(ids)
    )
    found, facts = annotate(None, batch(), 7)
    assert calls == [([1, 2], 7)]  # 0 is asked by the row without a response alone
    got = np.asarray(found.extra["teacher_pass"])
    np.testing.assert_allclose(got[:, 0], [2 / 3, 0, 0, 1 / 3, 2 / 3, 2 / 3])
    assert got.shape == found.mask_BT.shape and (got == got[:, :1]).all()
    assert facts["probes/pass"] == pytest.approx(0.5)
    assert set(batch().extra) <= set(found.extra)


def test_a_batch_without_student_rows_asks_nobody():
    nothing = batch()._replace(mask_BT=np.zeros_like(batch().mask_BT))
    annotate = probes.make_annotate(lambda ids, step: pytest.fail("asked"))
    found, facts = annotate(None, nothing, 0)
    assert not found.extra["teacher_pass"].any() and facts == {"probes/pass": None}


def test_parts_have_one_size_and_their_fill_is_behind():
    parts = probes.in_parts(np.arange(5), 3)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 3]]
    assert all(part.dtype == int for part in parts), "they are places in a list"


def test_two_of_three_are_two_thirds_and_the_rest_is_the_complement():
    rate_BT = np.asarray([[1.0], [2 / 3], [1 / 3], [0.0]], np.float32)
    scores = tiny.scores(rate_BT >= 0, extra={"teacher_pass": rate_BT})
    got = np.asarray(tgopd.trusted(scores))[:, 0]
    np.testing.assert_array_equal(got, [1, 1, 0, 0])
    rest = np.asarray(tgopd.trusted(scores, inverse=True))[:, 0]
    np.testing.assert_array_equal(got + rest, 1)
    with pytest.raises(ValueError, match=r"'teacher_pass'.*probes\.samples above 0"):
        tgopd.trusted(tiny.random_scores())


@pytest.mark.parametrize("at_least, want", [(0.0, "opd"), (1.1, "grpo")])
def test_at_its_ends_it_is_one_of_its_terms_to_the_bit(at_least, want):
    rate_BT = np.random.default_rng(0).uniform(size=(9, 6))
    scores = tiny.random_scores(extra={"teacher_pass": rate_BT})
    plain = dict(signal="policy_gradient")
    for name, inverse in (("opd", False), ("grpo", True)):
        weight = dict(function="tgopd.trusted", at_least=at_least, inverse=inverse)
        got = tiny.weighed(scores, weights=dict(one=weight), **plain).weight_BT
        alone = np.asarray(tiny.weighed(scores, **plain).weight_BT)
        np.testing.assert_array_equal(got, alone if name == want else 0 * alone)


def tgopd_config(models, **changes):
    built = runs.config(models, "tgopd")
    built.eval.verifier = "runs.begins_with_digit"
    with built.unlocked():
        built.teachers.moving = dict(weights="ema")
        built.update_from_flattened_dict(
            {key.replace("__", "."): value for key, value in changes.items()}
        )
    return built


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"probes__samples": 0}, r"loss\.grpo asks.*probes\.samples=0.*set it"),
        (
            {"probes__teacher": "moving"},
            r"probes\.teacher='moving'.*teacher, reference",
        ),
        ({"probes__temperature": 0.0}, r"probes\.temperature=0\.0"),
        ({"eval__verifier": "none"}, r"loss\.grpo reads rewards.*verifier='none'"),
    ],
)
def test_what_cannot_work_is_said(models, changes, words):
    with pytest.raises(ValueError, match=words):
        validation.validate(tgopd_config(models, **changes))
    validation.validate(tgopd_config(models))
