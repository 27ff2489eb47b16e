"""A student that is its teacher without some layers."""

import dataclasses
import sys

import jax
import numpy as np
import pytest

import runs
import tiny
from jopd.models import hf

sys.path.insert(0, str(runs.ROOT / "tools"))
import prune


def test_which_layers_stay():
    assert prune.kept(6, 6) == [0, 1, 2, 3, 4, 5]
    assert prune.kept(30, 17)[:5] == [0, 1, 2, 4, 6]
    for left in range(5, 31):
        places = prune.kept(30, left)
        assert len(set(places)) == left and places == sorted(places)
        assert {0, 1, 28, 29} < set(places)


@pytest.mark.parametrize("left", [4, 31])
def test_not_fewer_than_the_ends_nor_more_than_all(left):
    with pytest.raises(ValueError, match=f"--layers={left} of 30; use 5 to 30"):
        prune.kept(30, left)


def test_layers_keep_what_is_theirs(tmp_path):
    slides = (True, True, False, True, True, False, True)
    config = tiny.config(layers=7, sliding_window=4, sliding_layers=slides)
    params = tiny.params(config, 0)
    smaller, fewer = prune.pruned(config, params, 5)
    places = prune.kept(7, 5)
    assert smaller == dataclasses.replace(
        config, layers=5, sliding_layers=tuple(slides[n] for n in places)
    )
    for got, whole in zip(
        jax.tree.leaves(fewer["layers"]), jax.tree.leaves(params["layers"])
    ):
        np.testing.assert_array_equal(got, whole[np.array(places)])
    assert fewer["embed"] is params["embed"]


def test_the_command(tmp_path, monkeypatch, capsys):
    runs.make_model(tmp_path / "whole", seed=0, layers=6)
    words = ["prune.py", str(tmp_path / "whole"), str(tmp_path / "part"), "--layers=5"]
    monkeypatch.setattr(sys, "argv", words)
    prune.main()
    assert "part: 5 layers" in capsys.readouterr().out
    config, _ = hf.load(tmp_path / "part")
    assert config == dataclasses.replace(hf.load_config(tmp_path / "whole"), layers=5)
    assert hf.end_ids(tmp_path / "part") == hf.end_ids(tmp_path / "whole")
