"""Which rollout a row may see, and the prompts that show it."""

import functools
import itertools

import jax
import numpy as np
import pytest

import tiny
from jopd.batches import asking, collect
from jopd.data.sources import Example
from jopd.losses.panel import Panel
from jopd.teachers import peers
from jopd.types import GOLD, STUDENT, Rollout

B, T = 8, 7
#          success, failure, success | two failures | alone | gold success beside one
GROUP = np.array([4, 4, 4, 1, 1, 2, 0, 0])
REWARD = np.array([1.0, 0.0, 0.7, 0.0, 0.2, 1.0, 1.0, 0.0], np.float32)
SOURCE = np.array([STUDENT] * 6 + [GOLD, STUDENT])
PEER = np.array([2, 0, 0, -1, -1, -1, -1, -1])


def slow(group, reward, student, success, want="success", nth=1):
    found = []
    for i in range(len(group)):
        others = [
            j
            for j in range(len(group))
            if j != i and group[j] == group[i] and student[j]
            if (reward[j] >= success) == (want == "success")
        ]
        found.append(others[nth - 1] if len(others) >= nth and student[i] else -1)
    return found


def test_choose_by_hand():
    got = peers.choose(GROUP, REWARD, SOURCE == STUDENT, 0.5)
    np.testing.assert_array_equal(got, PEER)
    # At 1.0 row 2 is no success any more: row 0 may not see itself.
    got = peers.choose(GROUP, REWARD, SOURCE == STUDENT, 1.0)
    np.testing.assert_array_equal(got[:3], [-1, 0, 0])


@pytest.mark.parametrize("seed", range(20))
def test_choose_against_a_loop(seed):
    rng = np.random.default_rng(seed)
    group, student = rng.integers(0, 4, 15), rng.random(15) < 0.8
    reward = rng.choice([0.0, 0.5, 1.0], 15)
    for success, want, nth in itertools.product(
        (0.5, 1.0), ("success", "failure"), (1, 2, 3)
    ):
        got = peers.choose(group, reward, student, success, want=want, nth=nth)
        assert got.tolist() == slow(group, reward, student, success, want, nth)
        assert (got != np.arange(15)).all()


def test_two_successes_and_a_failure():
    """The numbers of MOPD's sheet: a row is never among its own."""
    choose = functools.partial(
        peers.choose, np.zeros(4), np.array([1.0, 1, 0, 1]), np.ones(4, bool), 0.5
    )
    seen = choose(), choose(nth=2), choose(want="failure")
    np.testing.assert_array_equal(
        np.transpose(seen), [[1, 3, 2], [0, 3, 2], [0, 1, -1], [0, 1, 2]]
    )
    failed = functools.partial(peers.choose, np.zeros(4), np.zeros(4), np.ones(4, bool))
    np.testing.assert_array_equal(failed(0.5), -1)


def batch():
    """Row b has the prompt [b] and the response [b + 10, b + 10, ...]."""
    tokens_BT = np.tile(np.arange(B)[:, None] + 10, (1, T)).astype(np.int32)
    tokens_BT[:, 0] = np.arange(B)
    length_B = np.array([3, 4, 5, 3, 3, 3, 3, 3], np.int32)
    rollout = Rollout(
        tokens_BT=tokens_BT,
        prompt_length_B=np.ones(B, np.int32),
        length_B=length_B,
        finished_B=np.ones(B, bool),
        behavior_logp_BT=np.zeros((B, T), np.float32),
        source_BT=np.repeat(SOURCE[:, None], T, axis=1),
        group_B=GROUP,
        age_B=np.zeros(B, np.int32),
    )
    return asking.batch_of(rollout, reward_B=REWARD)


class Tokenizer:
    def batch_decode(self, rows, **options):
        assert options["skip_special_tokens"]
        return ["".join(f"{token} " for token in row) for row in rows]


def encode(examples):
    """Numbers of a text; every other word is 99."""
    words = [example.prompt.split() for example in examples]
    number = lambda word: int(word) if word.isdecimal() else 99
    return [np.array([number(w) for w in row], np.int32) for row in words]


FACTS = {"peer/rows": 0, "peer/partial": 0, "peer/groups": 0, "peer/too_long": 0}
OWN = [np.array([50 + i], np.int32) for i in range(5)]
EXAMPLES = [Example(f"{i} =", None, str(i), f"row {i}") for i in range(5)]


SHOWN = peers.PeerPrompts(
    contexts={"self": "{question} {peer} | {question}"},
    examples=EXAMPLES,
    encode=encode,
    widths=(6, 12),
    success=0.5,
)


def annotated(made=None, **changes):
    texts_of = functools.partial(asking.responses, Tokenizer())
    annotate = peers.make_annotate(SHOWN._replace(**changes), OWN, texts_of)
    return annotate(None, made or batch(), 0)


def prompts_of(made):
    tokens_BP, length_B = made.prompts["self"]
    return [row[:n].tolist() for row, n in zip(tokens_BP, length_B)]


def test_a_row_reads_its_peer_and_the_others_their_own_prompt():
    made, facts = annotated()
    seen = prompts_of(made)
    assert seen[0] == [4, 99, 12, 12, 12, 12, 99, 4, 99]  # the response of row 2
    assert seen[1] == seen[2] == [4, 99, 10, 10, 99, 4, 99]  # that of row 0
    assert seen[3:] == [[50 + g] for g in GROUP[3:]]
    has_BT = made.extra["has_context/self"]
    assert has_BT.shape == (B, T) and has_BT.dtype == np.float32
    np.testing.assert_array_equal(has_BT, np.tile((PEER >= 0)[:, None], (1, T)))
    # 7 student rows; groups 0 (its success is gold), 1, 2 and 4.
    assert facts == FACTS | {"peer/rows": 3 / 7, "peer/groups": 0.5}


def test_a_prompt_that_is_too_long_leaves_its_row_without_a_peer():
    made, facts = annotated(widths=(4, 8))
    assert prompts_of(made)[0] == [54] and len(prompts_of(made)[1]) == 7
    seen = made.extra["has_context/self"][:, 0]
    np.testing.assert_array_equal(seen, [0, 1, 1] + [0] * 5)
    assert facts["peer/too_long"] == 1 and facts["peer/rows"] == 2 / 7


def test_what_a_row_lacks_is_left_out_of_its_prompt():
    context = "right {peer}\nright {peer2}\nwrong {failure} {failure2}\n{question}"
    grouped = batch()._replace(reward_B=np.array([1.0, 0, 1, 0, 0, 1, 1, 0]))
    made, facts = annotated(grouped, contexts={"self": context}, widths=(8, 16))
    right, wrong, own = [99], [99], [4, 99]
    first, second, third = [10] * 2, [11] * 3, [12] * 4
    assert prompts_of(made)[:5] == [
        [*right, *third, *wrong, *second, *own],
        [*right, *first, *right, *third, *own],
        [*right, *first, *wrong, *second, *own],
        [51],
        [51],
    ]
    seen = made.extra["has_context/self"][:, 0]
    # Only failures beside them, alone, gold, beside a success that is gold.
    np.testing.assert_array_equal(seen, [1] * 3 + [0] * 5)
    assert facts["peer/partial"] == 1 and facts["peer/rows"] == 3 / 7


def test_each_teacher_reads_its_own_and_all_are_of_one_width():
    contexts = {"self": "{question} {peer}", "strict": "{failure} {failure} {question}"}
    panels = Panel("both", ("self", "strict", "fixed")), Panel("none", ("fixed",))
    made, facts = annotated(contexts=contexts, widths=(4, 8, 16), panels=panels)
    want = {
        "self": [1, 1, 1, 0, 0, 0, 0, 0],
        "strict": [1, 0, 1, 1, 1, 0, 0, 0],
        "both": [1, 0, 1, 0, 0, 0, 0, 0],
    }
    found = {k: v[:, 0].tolist() for k, v in made.extra.items() if "context" in k}
    assert found == {f"has_context/{name}": rows for name, rows in want.items()}
    assert {made.prompts[name][0].shape for name in contexts} == {(B, 8)}
    assert facts["peer/rows"] == 5 / 7 and facts["peer/partial"] == 0


def test_a_guided_panel_serves_rows_with_both_sides():
    contexts = {"right": "{peer} {question}", "wrong": "{failure} {question}"}
    spec = Panel("p", ("base",), (), "guided", ("right",), ("wrong", "fixed"))
    alone = spec._replace(minus=("wrong",))
    made, _ = annotated(contexts=contexts, widths=(8,), panels=(spec,))
    served = {name: rows.tolist() for name, rows in made.serves.items()}
    assert set(served) == {"right", "wrong", "p"}  # who is fixed serves all
    assert served["right"] == served["p"] == [True] * 3 + [False] * 5
    assert served["wrong"] == [True, False, True, True, True] + [False] * 3
    made, _ = annotated(contexts=contexts, widths=(8,), panels=(alone,))
    assert made.serves["p"].tolist() == [True, False, True] + [False] * 5
    made, _ = annotated(
        contexts=contexts, widths=(8,), panels=(alone,), own_failure=True
    )
    # Row 1 is the only failure of its group: it is shown itself.
    assert made.serves["p"].tolist() == [True] * 3 + [False] * 5


def test_the_width_is_one_of_the_given():
    failed = batch()._replace(reward_B=np.zeros(B, np.float32))
    made, facts = annotated(failed)
    assert made.prompts["self"][0].shape == (B, 6)
    assert not made.extra["has_context/self"].any() and facts["peer/groups"] == 0
    assert annotated()[0].prompts["self"][0].shape == (B, 12)


def test_what_is_removed_of_a_peer():
    made, _ = annotated(remove="^1[0-9] ")
    assert prompts_of(made)[1] == [4, 99, 10, 99, 4, 99]


def test_masked_rows_neither_see_nor_serve():
    whole = batch()
    hidden = whole._replace(mask_BT=np.array(whole.mask_BT))
    hidden.mask_BT[0] = False
    made, _ = annotated(hidden)
    np.testing.assert_array_equal(made.extra["has_context/self"][:3, 0], [0, 1, 0])
    gold = jax.tree.map(np.array, whole)
    gold.rollout.source_BT[:] = GOLD
    assert annotated(gold)[1] == dict.fromkeys(FACTS) | {"peer/too_long": 0}


def test_other_prompts_and_facts_stay():
    made = batch()._replace(extra=tiny.audit(np.asarray(batch().mask_BT)))
    made, _ = annotated(made)
    assert set(made.extra) == {"chunk", "similarity", "has_context/self"}
    again = collect.with_prompts(made, {})
    assert set(again.prompts) == {"self"}


def test_examples_are_those_that_the_data_set_kept():
    kept = peers.aligned(EXAMPLES, ["row 0", "row 3", "row 4"])
    assert [row.prompt for row in kept] == ["0 =", "3 =", "4 ="]


def test_annotations_in_turn():
    add = lambda name: (
        lambda params, batch, step: (
            batch._replace(extra=batch.extra | {name: step + len(batch.extra)}),
            {name: params},
        )
    )
    made, facts = collect.in_turn([add("a"), add("b")])(7, batch(), 3)
    assert made.extra == {"a": 3, "b": 4} and facts == {"a": 7, "b": 7}
    assert collect.in_turn([]) is None
