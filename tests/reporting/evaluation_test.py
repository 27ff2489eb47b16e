"""The numbers of an evaluation against a slow recomputation over its rollouts."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import runs
from jopd.batches import asking
from jopd.data import rewards
from jopd.data.dataset import Dataset
from jopd.models import decoder, hf
from jopd.reporting import diagnostics
from jopd.reporting import evaluation as evaluate
from jopd.setup import experiment
from jopd.training import stages
from jopd.types import Rollout

CHANGES = {
    "eval__prompts": 5,
    "eval__k": 3,
    "eval__batch_rows": 4,  # of 15 rows: the last batch is filled up
    "eval__save_samples": 3,
    "eval__verifier": "runs.begins_with_digit",
    "eval__temperature": 0.9,
    "rollout__max_new_tokens": 12,
    "log__leak_pattern": r"\d\d",
}
EOS = 1


def measured(config):
    """(experiment, numbers, samples, rows of the sampled and greedy rollouts)."""
    e = experiment.build(config)
    seen = {"sampled": [], "greedy": []}
    with pytest.MonkeyPatch.context() as patch:
        roll = evaluate.roll

        def spy(params, ids, **keywords):
            kind = "greedy" if len(ids) == config.eval.prompts else "sampled"
            for rolled in roll(params, ids, **keywords):
                seen[kind].append(rolled)
                yield rolled

        patch.setattr(evaluate, "roll", spy)
        found, samples = stages.make_evaluate(e)(e.params, e.frozen)
    return e, found, samples, {kind: rows_of(groups) for kind, groups in seen.items()}


def rows_of(groups) -> list[tuple]:
    """(tokens up to the end, where the response starts, text, data set row)."""
    rows = []
    for group in groups:
        rollout = group.batch.rollout
        for i in range(group.count):
            start, end = int(rollout.prompt_length_B[i]), int(rollout.length_B[i])
            tokens = np.asarray(rollout.tokens_BT[i][:end])
            rows.append((tokens, start, group.texts[i], int(rollout.group_B[i])))
    return rows


@pytest.fixture(scope="module")
def evaluation(models):
    return measured(runs.config(models, **CHANGES))


def finished(row) -> bool:
    tokens, start, _, _ = row
    return len(tokens) > start and tokens[-1] == EOS


def right(row) -> float:
    """What ``runs.begins_with_digit`` says, from tokens; never of a truncated row."""
    tokens, start, _, _ = row
    text = [int(token) for token in tokens[start:] if token > EOS]  # 0 is padding
    return float(finished(row) and bool(text) and 2 <= text[0] <= 11)


@functools.cache
def model(path):
    shape, params = hf.load(path)
    apply = functools.partial(decoder.Decoder(shape).apply, return_kv=False)
    head = np.asarray(decoder.head(params), np.float64)
    return jax.jit(functools.partial(apply, {"params": params})), head


def log_probs(path, row) -> np.ndarray:
    """f64[R, V] of the response tokens: one row alone, no cache, all logits."""
    tokens, start, _, _ = row
    hidden_states, head = model(path)
    positions = jnp.arange(32)[None]  # of one width, to compile once
    ids = jnp.asarray(np.resize(tokens, (1, 32)))
    hidden, _ = hidden_states(ids, positions, positions < len(tokens))
    logits = np.asarray(hidden[0], np.float64) @ head.T
    return log_softmax(logits, axis=-1)[start - 1 : len(tokens) - 1]


def test_divergences_are_means_over_response_tokens(evaluation):
    e, found, _, rows = evaluation
    reverse, forward, entropy = [], [], []
    for row in rows["sampled"]:
        student = log_probs(e.config.student.path, row)
        teacher = log_probs(e.config.teacher.path, row)
        reverse += list((np.exp(student) * (student - teacher)).sum(axis=-1))
        forward += list((np.exp(teacher) * (teacher - student)).sum(axis=-1))
        entropy += list(-(np.exp(student) * student).sum(axis=-1))
    assert found["reverse_kl"] == pytest.approx(np.mean(reverse), rel=1e-4)
    assert found["forward_kl"] == pytest.approx(np.mean(forward), rel=1e-4)
    assert found["student_entropy"] == pytest.approx(np.mean(entropy), rel=1e-5)
    assert found["reverse_kl"] != pytest.approx(found["forward_kl"], rel=1e-2)


def test_lengths_and_truncation(evaluation):
    _, found, _, rows = evaluation
    assert len(rows["sampled"]) == 15
    ended = [finished(row) for row in rows["sampled"]]
    assert 0 < sum(ended) < 15, "both kinds are needed for this to mean much"
    lengths = [len(tokens) - start for tokens, start, _, _ in rows["sampled"]]
    assert max(lengths) == 12
    assert found["truncation_rate"] == pytest.approx(1 - np.mean(ended))
    assert found["mean_length"] == pytest.approx(np.mean(lengths))
    assert all(end or length == 12 for end, length in zip(ended, lengths, strict=True))


def test_leaks_are_a_share_of_the_sampled_rollouts(evaluation):
    _, found, _, rows = evaluation
    matches = [
        re.search(r"\d\d", text) is not None for _, _, text, _ in rows["sampled"]
    ]
    assert found["leak_rate"] == pytest.approx(np.mean(matches))
    assert 0 < sum(matches) < 15


def test_accuracy_avg_and_pass(evaluation):
    _, found, _, rows = evaluation
    by_prompt = {}
    for row in rows["sampled"]:
        by_prompt.setdefault(row[3], []).append(right(row))
    assert sorted(by_prompt) == list(range(5))
    values = np.array([by_prompt[i] for i in range(5)])
    assert values.shape == (5, 3) and 0 < values.mean() < 1
    assert found["avg_at_k"] == pytest.approx(values.mean())
    assert found["pass_at_k"] == pytest.approx(np.mean(values.max(axis=1)))
    greedy = {row[3]: right(row) for row in rows["greedy"]}
    assert sorted(greedy) == list(range(5))
    assert found["accuracy"] == pytest.approx(np.mean(list(greedy.values())))
    assert (found["k"], found["prompts"]) == (3, 5)
    assert set(found["intervals"]) == {"accuracy", "avg_at_k", "pass_at_k"}
    assert found["per_prompt"]["greedy"] == [greedy[i] for i in range(5)]
    assert found["per_prompt"]["sampled"] == values.tolist()


def test_prompts_are_known_by_their_texts_and_order():
    one = np.ones(2, np.float32)
    of = lambda *texts: evaluate._per_prompt(texts, one, one[:, None])["prompts"]
    assert of("1+1=", "2+2=") == of("1+1=", "2+2=")
    assert len({of("1+1=", "2+2="), of("2+2=", "1+1="), of("1+1=2", "+2=")}) == 3


def test_greedy_rollouts_take_the_likeliest_token(evaluation):
    e, _, _, rows = evaluation
    assert len(rows["greedy"]) == 5
    for row in rows["greedy"]:
        best = log_probs(e.config.student.path, row).argmax(axis=-1)
        np.testing.assert_array_equal(best, row[0][row[1] :])


def test_truncated_never_counts_as_right(models):
    """With one token to say, no answer is complete, whatever the verifier thinks."""
    changes = CHANGES | {"rollout__max_new_tokens": 1, "rollout__ignore_eos": True}
    changes |= {"eval__save_samples": 5}
    _, found, samples, _ = measured(runs.config(models, **changes))
    assert found["truncation_rate"] == 1
    assert found["accuracy"] == found["avg_at_k"] == found["pass_at_k"] == 0
    assert any(re.match(r"[0-9]", sample["response"]) for sample in samples)
    assert all(sample["reward"] == 0 and not sample["finished"] for sample in samples)


def test_one_rule_for_truncated_responses_in_training_and_evaluation():
    """Two rows of one text, one finished, one cut; greedy is the finished one."""
    texts, answers = ["7", "7"], ["7"]
    finished_B = np.array([True, False])
    shape = np.zeros((2, 2), np.int32)
    rollout = Rollout(*(shape, shape[0], shape[0] + 1, finished_B), *(shape,) * 4)
    batch = asking.batch_of(rollout._replace(group_B=shape[0]))
    data = Dataset([shape[0]], [None], [True], answers, [""], [""], {})
    for paid, want in ((False, [1, 0]), (True, [1, 1])):
        rows = asking.RowSet(data, None, rewards.exact, paid)
        reward_B = asking.rewarded(batch, texts, rows)[0].reward_B
        assert reward_B.tolist() == want and reward_B.dtype == np.float32
        rolled = evaluate.Rolled(batch._replace(reward_B=reward_B), texts, {}, 2)
        assert evaluate._correct([rolled]).tolist() == want
        assert metrics_of(batch._replace(reward_B=reward_B)) == np.mean(want)


def metrics_of(batch) -> float:
    return diagnostics.reward_metrics(batch)["reward/mean"]


def test_samples_are_first_rollouts_with_their_log_probs(evaluation):
    e, _, samples, rows = evaluation
    assert len(samples) == 3
    for i, sample in enumerate(samples):
        row = rows["sampled"][3 * i]
        tokens, start, text, index = row
        assert index == i and sample["prompt"] == e.rows.held.texts[i]
        assert sample["response"] == text and sample["answer"] == e.rows.held.answers[i]
        assert sample["finished"] == finished(row) and sample["reward"] == right(row)
        for name in ("student", "teacher"):
            logps = log_probs(e.config[name].path, row)
            written = logps[np.arange(len(logps)), tokens[start:]]
            np.testing.assert_allclose(sample[f"{name}_logp"], written, atol=2e-4)


# 16 rows are more than all; with 6, each of two devices has the three of a prompt.
@pytest.mark.parametrize("at_a_time, shared", [(16, 1), (6, 3)])
def test_numbers_do_not_depend_on_the_rows_at_a_time(
    models, evaluation, monkeypatch, at_a_time, shared
):
    bound = []
    make = stages.make_generate
    spy = lambda *a, **k: bound.append(k.get("copies", 1)) or make(*a, **k)
    monkeypatch.setattr(stages, "make_generate", spy)
    _, found, samples, rows = evaluation
    wide = runs.config(models, **CHANGES | {"eval__batch_rows": at_a_time})
    _, again, samples_again, rows_again = measured(wide)
    assert bound == [shared, 1]  # sampled and greedy
    for one, two in zip(rows["sampled"], rows_again["sampled"], strict=True):
        np.testing.assert_array_equal(one[0], two[0])
    exact = {"intervals", "per_prompt", "leak_pattern"}
    for key in found.keys() - exact:
        assert again[key] == pytest.approx(found[key], rel=1e-5), key
    assert all(again[key] == found[key] for key in exact)
    assert [s["response"] for s in samples] == [s["response"] for s in samples_again]


def test_without_verifier_and_teacher_their_numbers_are_none(models):
    changes = CHANGES | {"eval__verifier": "none", "teacher__path": ""}
    changes |= {"log__leak_pattern": ""}
    changes |= {"rollout__max_new_tokens": 20}  # room for gold solutions
    e, found, samples, rows = measured(runs.config(models, "sft", **changes))
    assert e.rows.verifier is None and not e.frozen
    for key in (
        "accuracy",
        "avg_at_k",
        "pass_at_k",
        "reverse_kl",
        "forward_kl",
        "leak_rate",
    ):
        assert found[key] is None, key
    assert found["intervals"] == {} and rows["greedy"] == []
    assert "per_prompt" not in found
    assert found["mean_length"] > 0
    assert all(s["reward"] is None and s["teacher_logp"] == [] for s in samples)
    assert all(len(s["student_logp"]) == len(s["tokens"]) for s in samples)


def test_an_evaluation_may_go_on_longer_than_rollouts(models, evaluation):
    """In the rows of the rollouts' own limit; the shorter one changes nothing there."""
    config = runs.config(models, **CHANGES | {"rollout__max_new_tokens": 5})
    config.eval.max_new_tokens = 12
    e = experiment.build(config)
    found, samples = stages.make_evaluate(e)(e.params, e.frozen)
    _, whole, others, _ = evaluation
    assert found == whole and samples == others
    assert found["max_new_tokens"] == 12 and found["mean_length"] > 5
    with pytest.raises(ValueError, match=r"up to 1\d\d .*eval\.max_new_tokens"):
        experiment.build(runs.config(models, eval__max_new_tokens=128))


def test_a_model_can_be_evaluated_against_itself(models):
    """``jopd.evaluate`` of the teacher: its divergence from itself is 0."""
    path = str(models / "teacher")
    config = runs.config(models, **CHANGES | {"student__path": path})
    e = experiment.build(config, train=False)
    found, _ = stages.make_evaluate(e)(e.params, e.frozen)
    assert found["reverse_kl"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="identically zero"):
        experiment.build(config)


@pytest.mark.parametrize(("asked", "rows"), [(0, 4), (3, 4), (4, 4), (99, 16)])
def test_rows_at_a_time_fit_the_devices_and_the_need(models, evaluation, asked, rows):
    changes = CHANGES | {"eval__batch_rows": asked}
    e = evaluation[0]._replace(config=runs.config(models, **changes))
    assert stages.evaluation_rows(e) == rows


@pytest.mark.parametrize("rows, group, shared", [(6, 3, 3), (6, 2, 1), (4, 3, 1)])
def test_prompts_are_read_once_where_devices_have_whole_groups(
    evaluation, rows, group, shared
):
    assert evaluation[0].mesh.devices.size == 2
    assert stages.shared_reading(evaluation[0], rows, group) == shared
