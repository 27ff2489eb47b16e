"""Shares of responses with a match."""

import functools

import jax
import numpy as np

import tiny
from jopd.batches import asking
from jopd.reporting import leaks
from jopd.types import STUDENT


class Tokenizer:
    def batch_decode(self, rows, **options):
        assert options["skip_special_tokens"]
        return [" ".join(map(str, row)) for row in rows]


def test_rate_is_a_share_of_texts():
    texts = ["the reference says 7", "7", "a Reference", ""]
    assert leaks.rate("reference", texts) == 0.25
    assert leaks.rate("(?i)reference", texts) == 0.5
    assert leaks.rate("^$", texts) == 0.25
    assert leaks.rate("7", []) is None


def test_only_fresh_student_rows_count():
    batch = jax.tree.map(np.asarray, tiny.batch(0, rows=8))
    rollout = batch.rollout._replace(age_B=np.array([0, 0, 0, 0, 0, 2, 0, 0]))
    batch = batch._replace(rollout=rollout)
    own_BT = batch.mask_BT & (rollout.source_BT == STUDENT)
    fresh = [b for b in range(8) if own_BT[b].any() and rollout.age_B[b] == 0]
    assert 2 < len(fresh) < 7
    spans = {
        b: rollout.tokens_BT[b, rollout.prompt_length_B[b] : rollout.length_B[b]]
        for b in fresh
    }
    token = int(spans[fresh[0]][0])
    want = np.mean([token in span for span in spans.values()])
    annotate = leaks.make_annotate(
        rf"\b{token}\b", functools.partial(asking.responses, Tokenizer())
    )
    same, facts = annotate(None, batch, 0)
    assert same is batch and facts == {"leak/rate": want} and 0 < want < 1
    old = batch._replace(rollout=rollout._replace(age_B=np.ones(8, int)))
    assert annotate(None, old, 0)[1] == {"leak/rate": None}
