"""Batches put together from rollouts, replayed rows and gold solutions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.batches import asking, collect
from jopd.data import dataset as datasets
from jopd.models import decoder
from jopd.rollouts import generate as rollout
from jopd.types import GOLD, STUDENT, TEACHER

PROMPTS, NEW = 12, 6
WIDTHS = (8, 11)


def dataset(every: int = 2) -> datasets.Dataset:
    """Prompt i begins with token i; every second one has a solution."""
    rng = np.random.default_rng(0)
    draw = lambda n: rng.integers(0, tiny.VOCABULARY, n).astype(np.int32)
    prompts = [np.append(np.int32(i), draw(i % 5)) for i in range(PROMPTS)]
    solutions = [draw(2 + i % 4) if i % every == 0 else None for i in range(PROMPTS)]
    return datasets.Dataset(
        prompts=prompts,
        solutions=solutions,
        finished=[i % 3 > 0 for i in range(PROMPTS)],
        answers=[str(i) for i in range(PROMPTS)],
        texts=[""] * PROMPTS,
        ids=[f"row {i}" for i in range(PROMPTS)],
        dropped={},
    )


class Tokenizer:
    """Decodes to numbers, so that a verifier sees which tokens it was given."""

    def batch_decode(self, rows, **options):
        assert options["skip_special_tokens"]
        return ["".join(f"{token} " for token in row) for row in rows]


@functools.cache
def student():
    shape = tiny.config()
    bound = functools.partial(
        rollout.generate,
        model=decoder.Decoder(shape),
        max_new_tokens=NEW,
        stop_ids=(1, 2),
        vocabulary=tiny.VOCABULARY,
    )
    return tiny.params(shape, 0), jax.jit(bound)


def collector(mix: collect.Mix, verifier=None, data=None, **changes):
    """``(buffer, step) -> (buffer, Collected)`` with the tiny student."""
    params, generate = student()
    buckets = changes.pop("buckets", (3, 5))
    writer = asking.Writer(changes.pop("generate", generate), buckets, NEW)
    rows = asking.RowSet(data or dataset(), Tokenizer(), verifier)
    as_they_are = lambda batch: (batch, np.arange(len(batch.reward_B)))
    settings = {"seed": 5, "widths": WIDTHS, "deal": as_they_are}
    function = collect.make_collect(rows, writer, mix, **(settings | changes))
    return functools.partial(function, params)


def ids(batch) -> list[int]:
    return np.asarray(batch.prompt_id_B).tolist()


def assert_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize(
    "shares, want",
    [
        ({"student": 1.0, "gold": 0.0, "replay": 0.0}, (12, 0, 0)),
        ({"student": 0.8, "gold": 0.2, "replay": 0.0}, (12, 0, 3)),
        ({"student": 0.5, "gold": 0.25, "replay": 0.25}, (12, 6, 6)),
        ({"student": 0.0, "gold": 1.0, "replay": 0.0}, (0, 0, 12)),
    ],
)
def test_rows_of_mix(shares, want):
    assert collect.rows_of_mix(**shares, prompts=3, group_size=4) == want


def test_trim_takes_the_smallest_bucket_that_holds_all():
    batch = collect.fit(tiny.batch(0, width=9), 16)
    assert batch.mask_BT.shape == batch.rollout.tokens_BT.shape == (6, 16)
    assert not np.any(batch.mask_BT[:, 9:])
    for buckets, width in [((4, 9, 16), 9), ((4, 10, 16), 10), ((8, 16), 16)]:
        cut = collect.trim(batch, buckets)
        assert cut.mask_BT.shape == cut.rollout.source_BT.shape == (6, width)
        assert_equal(cut.rollout.length_B, batch.rollout.length_B)
        assert_equal(collect.fit(cut, 16), batch)


def test_gold_rows_pass_over_prompts_without_a_solution():
    data = dataset()
    batch = collect.gold_batch(data, [3, 4, 5, 8, 2], count=2, width=11)
    assert ids(batch) == [4, 8]
    for b, row in enumerate([4, 8]):
        start, end = batch.rollout.prompt_length_B[b], batch.rollout.length_B[b]
        assert batch.rollout.tokens_BT[b, :start].tolist() == data.prompts[row].tolist()
        assert (
            batch.rollout.tokens_BT[b, start:end].tolist()
            == data.solutions[row].tolist()
        )
        assert np.flatnonzero(batch.mask_BT[b]).tolist() == list(range(start, end))
    assert np.all(batch.rollout.source_BT == GOLD)
    assert not np.any(batch.rollout.behavior_logp_BT)


def test_gold_rows_that_are_missing_are_masked():
    some = collect.gold_batch(dataset(), [3, 4, 5], count=3, width=11)
    assert np.asarray(some.mask_BT).any(axis=1).tolist() == [True, False, False]
    none = collect.gold_batch(dataset(), [3, 5], count=2, width=11)
    assert none.mask_BT.shape == (2, 11) and not np.any(none.mask_BT)


def test_gold_rows_come_from_other_prompts_where_those_of_an_update_have_none():
    mix = collect.Mix(fresh=4, replayed=0, gold=3, group_size=2)
    run, seen = collector(mix), []
    for step in range(12):
        _, got = run(None, step)
        own = [i for i in np.asarray(got.fresh.rollout.group_B)[::2] if i % 2 == 0]
        gold = ids(got.batch)[4:]
        # Those of the update's own prompts first, no solution twice, none missing.
        assert set(own) <= set(gold) and len(set(gold)) == 3
        assert np.asarray(got.batch.mask_BT)[4:].any(axis=1).all()
        assert ids(run(None, step)[1].batch) == ids(got.batch)
        seen += set(gold) - set(own)
    assert set(seen) == {0, 2, 4, 6, 8, 10}  # all that there are, in turn


def test_gold_rows_beyond_all_solutions_are_empty():
    mix = collect.Mix(fresh=4, replayed=0, gold=8, group_size=2)
    _, got = collector(mix)(None, 0)
    alive_B = np.asarray(got.batch.mask_BT)[4:].any(axis=1)
    assert alive_B.sum() == 6 and sorted(ids(got.batch)[4:][:6]) == [0, 2, 4, 6, 8, 10]


def test_stack_keeps_the_order():
    first, second = tiny.batch(0), tiny.batch(1)
    both = collect.stack([first, second])
    assert_equal(jax.tree.map(lambda x: x[:6], both), first)
    assert_equal(jax.tree.map(lambda x: x[6:], both), second)


def test_the_coin_is_fair_and_depends_on_seed_and_step_only():
    mix = collect.Mix(4, 0, 0, 1, on_policy_probability=0.3)
    flips = [collect.is_on_policy(mix, 7, step) for step in range(2000)]
    assert flips == [collect.is_on_policy(mix, 7, step) for step in range(2000)]
    # Four standard errors.
    assert abs(np.mean(flips) - 0.3) < 4 * np.sqrt(0.21 / 2000)
    assert flips != [collect.is_on_policy(mix, 8, step) for step in range(2000)]
    for probability in (0.0, 1.0):
        sure = mix._replace(on_policy_probability=probability)
        assert {collect.is_on_policy(sure, 7, s) for s in range(99)} == {
            probability == 1
        }
    assert not collect.is_on_policy(collect.Mix(0, 0, 4, 1), 7, 0)


def test_fresh_rows_are_groups_of_the_steps_prompts():
    run = collector(collect.Mix(fresh=6, replayed=0, gold=0, group_size=2))
    buffer, got = run(None, 3)
    assert buffer is None
    want = datasets.order(3, prompts_per_step=3, size=PROMPTS, seed=5)
    assert ids(got.batch) == np.repeat(want, 2).tolist()
    assert np.asarray(got.batch.rollout.group_B).tolist() == ids(got.batch)
    tokens_BT = np.asarray(got.batch.rollout.tokens_BT)
    assert tokens_BT[:, 0].tolist() == ids(got.batch)
    assert np.any(tokens_BT[0] != tokens_BT[1]), "each row of a group draws for itself"
    assert np.all(
        np.asarray(got.batch.rollout.source_BT)[np.asarray(got.batch.mask_BT)]
        == STUDENT
    )
    assert got.batch.mask_BT.shape[1] in WIDTHS
    assert got.fresh.mask_BT.shape == (6, 11)
    _, again = run(None, 3)
    assert_equal(again.batch, got.batch)
    _, later = run(None, 4)
    assert ids(later.batch) != ids(got.batch)


@pytest.mark.parametrize("share, kept", [(0.0, 0), (0.49, 1), (0.5, 2), (1.0, 4)])
def test_first_part_is_rounded_down(share, kept):
    responses = [np.arange(4), np.arange(0)]
    first, nothing = asking.first_part(responses, share)
    assert first.tolist() == list(range(kept)) and len(nothing) == 0


def test_rollouts_go_on_from_a_prefix():
    """Its tokens are given and not drawn, and the student has its whole limit."""
    given = {3: [4, 5], 4: [], 5: [6, 7, 8, 9, 10]}
    asked = []

    def prefix(ids, step):
        asked.append((ids.tolist(), step))
        return [np.asarray(given[3 + i], np.int32) for i in range(len(ids))]

    mix = collect.Mix(fresh=6, replayed=0, gold=0, group_size=2)
    changes = {"buckets": (10,), "prefix": prefix, "widths": (*WIDTHS, 16)}
    _, got = collector(mix, **changes)(None, 3)
    rolled = jax.tree.map(np.asarray, got.fresh.rollout)
    prompts = datasets.order(3, prompts_per_step=3, size=PROMPTS, seed=5)
    assert asked == [(prompts.tolist(), 3)]
    data = dataset()
    for row in range(6):
        prompt, head = data.prompts[prompts[row // 2]], given[3 + row // 2]
        start, end = rolled.prompt_length_B[row], rolled.length_B[row]
        first = start + len(head)
        assert rolled.tokens_BT[row, :first].tolist() == [*prompt, *head]
        assert np.all(rolled.source_BT[row, start:first] == TEACHER)
        assert np.all(rolled.source_BT[row, first:end] == STUDENT)
        assert np.all(rolled.behavior_logp_BT[row, :first] == 0)
        assert np.all(rolled.behavior_logp_BT[row, first:end] < 0)
        assert first < end <= first + NEW
        assert np.flatnonzero(got.fresh.mask_BT[row]).tolist() == [*range(start, end)]
    drawn_B = np.sum(got.fresh.mask_BT & (rolled.source_BT == STUDENT), axis=1)
    cut_B = ~rolled.finished_B
    assert cut_B.any() and np.all(drawn_B[cut_B] == NEW)


def test_a_prefix_that_is_a_whole_response_is_left_alone():
    prefix = lambda ids, step: [np.asarray([4, 5, 1], np.int32)] * len(ids)
    mix = collect.Mix(fresh=4, replayed=0, gold=0, group_size=2)
    _, got = collector(mix, buckets=(10,), prefix=prefix)(None, 0)
    rolled = got.fresh.rollout
    assert np.all(rolled.length_B == rolled.prompt_length_B + 3)
    assert np.all(rolled.finished_B)


def test_every_step_has_a_random_stream_of_its_own():
    _, generate = student()
    keys = []

    def noting(params, asked, key):
        keys.append(jax.random.key_data(key).tolist())
        return generate(params, asked, key)

    mix = collect.Mix(4, 0, 0, 2)
    run = collector(mix, generate=noting)
    coins = [np.asarray(run(None, step)[1].batch.uniform_BT) for step in (0, 1, 0)]
    collector(mix, generate=noting, seed=6)(None, 0)
    assert keys[0] == keys[2]
    assert keys[0] != keys[1] and keys[0] != keys[3]
    np.testing.assert_array_equal(coins[0], coins[2])
    assert coins[0].min() >= 0 and coins[0].max() < 1
    assert not np.isin(coins[0], coins[1]).any()


def test_rewards_are_of_each_rows_own_response():
    seen = []

    def verifier(text, answer):
        seen.append((text, answer))
        return float(len(seen))

    run = collector(collect.Mix(4, 0, 2, 2), verifier)
    _, got = run(None, 0)
    rows = got.fresh.rollout
    paid_B = np.arange(1, 5) * rows.finished_B  # one that is cut earns nothing
    assert np.asarray(got.batch.reward_B).tolist() == [*paid_B, 0, 0]
    assert 0 < sum(rows.finished_B) < 4
    for b, (text, answer) in enumerate(seen):
        response = rows.tokens_BT[b, rows.prompt_length_B[b] : rows.length_B[b]]
        assert text == "".join(f"{token} " for token in response)
        assert answer == str(ids(got.batch)[b])


def test_the_order_is_fresh_replayed_gold():
    mix = collect.Mix(fresh=4, replayed=2, gold=2, group_size=2)
    run = collector(mix, data=dataset(every=1))
    buffer = collect.empty_buffer(mix, 11)
    assert len(buffer.filled_C) == 16
    buffer, first = run(buffer, 0)
    alive_B = np.asarray(first.batch.mask_BT).any(axis=1)
    assert alive_B.tolist() == [True] * 4 + [False] * 2 + [True] * 2
    buffer, got = run(buffer, 1)
    source_B = np.asarray(got.batch.rollout.source_BT)[:, 0]
    assert source_B.tolist() == [STUDENT] * 6 + [GOLD] * 2
    assert np.asarray(got.batch.rollout.age_B).tolist() == [0] * 4 + [1] * 2 + [0] * 2
    # One gold solution for each prompt of the step.
    assert ids(got.batch)[6:] == ids(got.batch)[0:4:2]
    # Replayed rows are rows of the first rollout, log-probs included.
    earlier = np.asarray(first.fresh.rollout.behavior_logp_BT)
    for row in np.asarray(got.batch.rollout.behavior_logp_BT)[4:6]:
        width = len(row)
        assert any(np.array_equal(row, old[:width]) for old in earlier)
    assert int(np.asarray(buffer.filled_C).sum()) == 8


@pytest.mark.parametrize("gold", [3, 6])
def test_gold_rows_may_outnumber_prompts_and_rollouts(gold):
    mix = collect.Mix(fresh=4, replayed=0, gold=gold, group_size=2)
    _, got = collector(mix, data=dataset(every=1))(None, 0)
    assert len(got.fresh.reward_B) == 4 and len(got.batch.reward_B) == 4 + gold
    assert np.all(np.asarray(got.batch.mask_BT).any(axis=1))
    assert len(set(ids(got.batch)[4:])) == gold


def test_rollouts_are_used_again_from_the_buffer():
    mix = collect.Mix(4, 0, 0, 2, updates_per_rollout=3)
    run = collector(mix)
    buffer, first = run(collect.empty_buffer(mix, 11), 0)
    for step in (1, 2):
        buffer, got = run(buffer, step)
        assert got.fresh is None
        assert sorted(ids(got.batch)) == sorted(ids(first.batch))
        assert np.asarray(got.batch.rollout.age_B).tolist() == [step] * 4
    _, fourth = run(buffer, 3)
    assert fourth.fresh is not None and ids(fourth.batch) != ids(first.batch)


def test_reuse_and_replay_together_find_room():
    mix = collect.Mix(4, 1, 0, 2, updates_per_rollout=2)
    run, buffer = collector(mix), collect.empty_buffer(mix, 11)
    rows = []
    for step in range(4):
        buffer, got = run(buffer, step)
        rows.append(len(got.batch.reward_B))
    assert rows == [mix.rows] * 4
    small = mix._replace(capacity=4)
    buffer, _ = collector(small)(collect.empty_buffer(small, 11), 0)
    with pytest.raises(ValueError, match=r"mix\.capacity to at least 5"):
        collector(small)(buffer, 1)


def test_off_policy_steps_are_all_gold():
    mix = collect.Mix(4, 0, 2, 2, on_policy_probability=0.0)
    _, got = collector(mix, data=dataset(every=1))(None, 0)
    assert got.fresh is None and len(got.batch.reward_B) == mix.rows
    assert np.all(got.batch.rollout.source_BT == GOLD)
    assert np.all(np.asarray(got.batch.mask_BT).any(axis=1))
    _, later = collector(mix, data=dataset(every=1))(None, 1)
    assert ids(later.batch) != ids(got.batch)
    only_gold = collect.Mix(0, 0, 4, 2)
    _, got = collector(only_gold)(None, 0)
    assert len(got.batch.reward_B) == 4 and np.all(got.batch.rollout.source_BT == GOLD)


def test_no_buffer_unless_something_reads_it():
    assert collect.empty_buffer(collect.Mix(4, 0, 2, 2), 11) is None
    like = collect.empty_buffer(collect.Mix(4, 2, 0, 2, capacity=5), 11)
    assert like.rows.mask_BT.shape == (5, 11) and jnp.asarray(like.filled_C).sum() == 0


def test_an_annotation_sees_the_mixed_batch_before_it_is_dealt():
    order = []

    def annotate(params, batch, step):
        order.append("annotate")
        assert params is student()[0] and step == 4
        assert batch.mask_BT.shape[1] in WIDTHS
        assert isinstance(batch.mask_BT, np.ndarray) and batch.extra == {}
        assert len(batch.reward_B) == 6, "gold rows, too"
        extra = {"own": np.asarray(batch.mask_BT, np.float32)}
        return batch._replace(extra=extra), {"facts/rows": 6.0}

    def deal(batch):
        order.append("deal")
        return batch, np.arange(len(batch.reward_B))

    mix = collect.Mix(4, 0, 2, 2)
    _, got = collector(mix, annotate=annotate, deal=deal)(None, 4)
    _, plain = collector(mix)(None, 4)
    assert order == ["annotate", "deal"] and got.facts == {"facts/rows": 6.0}
    np.testing.assert_array_equal(got.batch.extra["own"], got.batch.mask_BT)
    assert got.fresh.extra == {} and plain.facts == {} and plain.batch.extra == {}
    assert_equal(got.batch._replace(extra={}), plain.batch)
