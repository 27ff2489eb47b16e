import numpy as np
import pytest

from jopd.teachers import similarity, verdict

NED = similarity.resolve("ned")
SAMPLES = 2


def judged(found: list[str], own: list[str], **counts) -> str:
    """The verdict on one text a chunk, sampled twice."""
    pairs = verdict.Pairs(
        [chunk for chunk in own for _ in range(SAMPLES)],
        [text for text in found for _ in range(SAMPLES)],
    )
    alike = np.reshape(NED(*pairs) if own else np.zeros(0), (-1, SAMPLES))
    known = {"texts": 2 * len(found), "empty": 0, "refused": 0, "restated": 0}
    return verdict.of_audit(known | counts, pairs, alike, NED)


OWN = [f"{i}+{i}={2 * i};" for i in range(10)]


def test_continuations_pass_and_are_described():
    line = judged(OWN, OWN, empty=2)
    assert "20, of them 10% empty, 0% refused, 0% restated" in line
    assert "all 2 equal in 100% of 10 chunks; similarity 1.000, to those" in line


@pytest.mark.parametrize("kind", ["empty", "refused", "restated"])
def test_mostly_unusable_texts_stop(kind):
    with pytest.raises(ValueError, match=rf"55% {kind}.*judge_first=False"):
        judged(OWN, OWN, **{kind: 11})
    judged(OWN, OWN, **{kind: 10})


def test_the_same_text_for_every_chunk_stops():
    with pytest.raises(ValueError, match="no continuations of the student's texts"):
        judged(["1+2=3;4"] * 10, OWN)


def test_texts_of_other_chunks_stop():
    with pytest.raises(ValueError, match="no continuations"):
        judged(OWN[5:] + OWN[:5], OWN)


def test_few_chunks_say_nothing_about_likeness():
    line = judged(["x"] * 7, OWN[:7])
    assert "similarity" not in line
    with pytest.raises(ValueError, match="100% refused"):
        judged([], [], texts=4, refused=4)
