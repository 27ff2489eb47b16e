"""Log-probabilities of given tokens, against the logits themselves."""

import jax
import numpy as np
import pytest

import jopd
from jopd.serving import reading

ROWS = [[3, 4, 13, 5, 16, 7, 17, 2], [5, 6], [7], [9, 10, 14, 11, 16]]


@pytest.fixture(scope="module")
def model():
    return jopd.load("demo:teacher")


def wanted(model, row):
    logp = jax.nn.log_softmax(model.logits([row]))[0, :-1]
    return np.asarray(logp, float)


def test_rows_of_all_lengths_are_read_together(model):
    found = reading.read(model, ROWS, k=3)
    for row, read in zip(ROWS, found, strict=True):
        logp = wanted(model, row)
        own = logp[np.arange(len(row) - 1), row[1:]]
        assert read.logp == pytest.approx(own, abs=2e-5)
        assert read.ids.shape == read.likely.shape == (len(row) - 1, 3)
        for place, ids, logps in zip(logp, read.ids, read.likely):
            assert logps == pytest.approx(np.sort(place)[::-1][:3], abs=2e-5)
            assert place[ids] == pytest.approx(logps, abs=2e-5)


def test_more_rows_than_are_read_at_one_time(model):
    rows = [[3 + n % 7, 5, 4 + n % 3] for n in range(reading.ROWS + 3)]
    for row, read in zip(rows, reading.read(model, rows), strict=True):
        logp = wanted(model, row)
        assert read.logp == pytest.approx(logp[np.arange(2), row[1:]], abs=2e-5)
        assert read.ids.shape == (2, 0)


def test_ids_that_were_asked_for(model):
    asked = [np.arange(5 * (len(row) - 1)).reshape(-1, 5) % 18 for row in ROWS]
    found = reading.read(model, ROWS, k=5, asked=asked)
    for row, ids, read in zip(ROWS, asked, found, strict=True):
        logp = wanted(model, row)
        assert (read.ids == ids).all()
        exact = np.take_along_axis(logp, ids, axis=1)
        np.testing.assert_allclose(read.likely, exact, atol=2e-5)


def test_what_cannot_be_read(model):
    with pytest.raises(ValueError, match=r"257 tokens; .* reads 1 to 256"):
        reading.read(model, [[3] * 257])
