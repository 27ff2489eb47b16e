from pathlib import Path

import pytest

from jopd.setup import inputs
from jopd.setup.config import base_config
from jopd.setup.regimes import REGIMES


@pytest.mark.parametrize("name", REGIMES)
def test_its_keys_are_in_the_config_and_its_models_are_there(name):
    c, regime = base_config(regime=name), REGIMES[name]
    for key, value in regime.keys.items():
        section, _, last = key.partition(".")
        assert c[section][last] == value
        if key.endswith(".path") and value.startswith(inputs.DEMO):
            assert (Path(inputs.model_path(value)) / "model.safetensors").is_file()
    assert regime.made_by or all("runs/" not in str(v) for v in regime.keys.values())


def test_an_unknown_one_is_named():
    with pytest.raises(ValueError, match=r"regime='nowhere' is unknown; .*hinted"):
        base_config(regime="nowhere")
