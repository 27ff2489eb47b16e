"""How far recorded log-probs may lie from recomputed ones before a run stops."""

import re
from types import SimpleNamespace as Fake

import numpy as np
import pytest

from jopd.setup.config import base_config
from jopd.training import observe
from jopd.types import GOLD, STUDENT


def tolerance(
    layers: int, vocabulary: int, asked: float = 0.0, dtype: str = "float32"
) -> float:
    student = Fake(config=Fake(layers=layers, dtype=dtype))
    config = Fake(log=Fake(sampler_tolerance=asked))
    shape = Fake(vocabulary=vocabulary)
    return observe.sampler_tolerance(
        Fake(config=config, models={"student": student}, shape=shape)
    )


@pytest.mark.parametrize(
    "layers, vocabulary, want",
    [(2, 18, 1e-5), (4, 1024, 1e-5), (16, 1024, 2e-5), (16, 2**20, 4e-5)],
)
def test_it_grows_with_depth_and_vocabulary(layers, vocabulary, want):
    assert tolerance(layers, vocabulary) == pytest.approx(want)
    coarse = tolerance(layers, vocabulary, dtype="bfloat16")
    assert coarse == pytest.approx(2000 * want)


def test_a_number_of_ones_own_stays():
    assert tolerance(30, 49_152, asked=2e-6) == 2e-6


def gap(
    average: float, largest: float, dtype: str = "float32", exact: bool = False
) -> list[str]:
    config = base_config()
    student = Fake(config=Fake(layers=16, dtype=dtype, exact=exact))
    e = Fake(config=config, models={"student": student}, shape=Fake(vocabulary=1024))
    return observe.judge_gap(e, average, largest, 50)


def test_a_gap_is_fine_or_said_or_stops():
    allowed = 2e-5
    assert gap(allowed, 100 * allowed) == []
    (line,) = gap(1.5 * allowed, 0)
    assert "step 50" in line and "1.5 times the 2.0e-05" in line
    (line,) = gap(0, 900 * allowed)
    assert "9.0 times" in line
    none = float("nan")
    for found in ((10.1 * allowed, 0), (0, 1010 * allowed), (none, none)):
        with pytest.raises(FloatingPointError, match="not the trainer's student"):
            gap(*found)
    assert gap(0.04, 4.0, dtype="bfloat16") == []
    for found in ((0.05, 0), (0, 5.0), (none, none), (9.0, 9.0)):
        (line,) = gap(*found, dtype="bfloat16")
        assert "the 4.0e-02" in line and "student.dtype=float32 tells" in line


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_any_gap_of_an_exact_student_is_said(dtype):
    assert gap(0.0, 0.0, dtype, exact=True) == []
    (line,) = gap(1e-9, 1e-7, dtype, exact=True)
    assert "student.exact=True" in line and "by up to 1.0e-07 nats" in line


def test_an_exact_student_that_is_another_stops():
    with pytest.raises(FloatingPointError, match="not the trainer's student"):
        gap(1.0, 1.0, exact=True)


# The ratio of rollouts that no update has used.


def said_of_ratio(ratio: float, source=STUDENT, **changes) -> list[str]:
    """Of a student that gives every token ``ratio`` times what it was drawn with."""
    config = base_config()
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    student = Fake(config=Fake(layers=2, dtype=config.student.dtype))
    e = Fake(config=config, models={"student": student}, shape=Fake(vocabulary=18))
    drawn_BT = np.log(np.full((2, 3), 0.25))
    rollout = Fake(source_BT=np.full((2, 3), source), behavior_logp_BT=drawn_BT)
    batch = Fake(mask_BT=np.ones((2, 3), bool), rollout=rollout)
    parts = {"logp/student": drawn_BT + np.log(ratio)}
    return observe.check_ratio(e, Fake(fresh=batch, batch=batch), parts)


def test_a_ratio_of_one_is_not_news():
    assert said_of_ratio(1.0) == said_of_ratio(1 + 5e-4) == []
    assert said_of_ratio(0.5, source=GOLD) == []
    assert said_of_ratio(1.02, student__dtype="bfloat16") == []


@pytest.mark.parametrize("ratio", [0.9, 1.1, 1.002])
def test_a_ratio_that_nothing_explains_stops_the_run(ratio):
    with pytest.raises(FloatingPointError, match=f"importance ratio of {ratio}, not 1"):
        said_of_ratio(ratio)


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"rollout__top_p": 0.9}, "rollout.top_p=0.9"),
        ({"rollout__top_k": 5}, "rollout.top_k=5"),
        ({"rollout__min_p": 0.1}, "rollout.min_p=0.1"),
        ({"objective__temperature": 0.5}, "objective.temperature=0.5"),
        ({"student__dtype": "bfloat16"}, "rounding of bfloat16"),
    ],
)
def test_a_ratio_that_something_explains_is_said(changes, why):
    (line,) = said_of_ratio(0.9, **changes)
    assert line.endswith(f"so clips may act: {why}")


def test_what_is_no_number_is_named_with_term_model_and_row():
    texts = [f"question {i}" for i in range(9)]
    rows = Fake(train=Fake(texts=texts))
    e = Fake(rows=rows)
    loss = np.zeros((3, 5))
    teacher, student = loss.copy(), loss.copy()
    loss[1, 2:4] = np.nan
    loss[2, 4] = np.inf
    teacher[1, 2] = -np.inf
    parts = {"loss/opd": loss, "logp/teacher": teacher, "logp/student": student}
    rollout = Fake(prompt_length_B=np.array([1, 2, 3]))
    batch = Fake(prompt_id_B=np.array([4, 7, 5]), rollout=rollout)
    said = (
        "in 2 of 3 rows; in the first, prompt 7 ('question 7'), this and the log-prob"
    )
    with pytest.raises(
        FloatingPointError,
        match=re.escape(said + " of teacher from token 1 of the response on"),
    ):
        observe.stop_if_unfinite(e, {"loss/opd": np.nan}, parts, batch, 3)
    assert observe.blame(e, "optim/grad_norm", parts, batch) == ""
    observe.stop_if_unfinite(e, {"loss/opd": 0.5, "optim/grad_norm": 1.0}, {}, batch, 3)
