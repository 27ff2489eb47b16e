"""How far recorded log-probs may lie from recomputed ones before a run stops."""

from types import SimpleNamespace as Fake

import pytest

from jopd.training import observe


def tolerance(layers: int, vocabulary: int, asked: float = 0.0) -> float:
    student = Fake(config=Fake(layers=layers))
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


def test_a_number_of_ones_own_stays():
    assert tolerance(30, 49_152, asked=2e-6) == 2e-6
