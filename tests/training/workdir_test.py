"""What a run's folder keeps for the next start."""

import datetime

import pytest

import runs
from jopd.training import workdir


def test_a_run_goes_on_with_the_day_that_it_began_on(models, tmp_path):
    config = runs.config(models)
    today = str(datetime.date.today())
    assert workdir.dated(tmp_path, config).data.date == today
    assert config.data.date == ""
    begun = workdir.written(config.to_dict())
    begun["data"]["date"] = "2024-02-29"
    workdir.write_config(tmp_path, begun)
    later = workdir.dated(tmp_path, config)
    assert later.data.date == "2024-02-29"
    workdir.prepare(tmp_path, workdir.written(later.to_dict()))
    other = workdir.dated(tmp_path, runs.config(models, data__date="2024-03-01"))
    with pytest.raises(ValueError, match=r"data.date was '2024-02-29' and is now"):
        workdir.prepare(tmp_path, workdir.written(other.to_dict()))


@pytest.mark.parametrize("text", ["{", "[]", '{"data": 3}', "{}"])
def test_a_damaged_config_is_left_to_who_checks_it(models, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    today = str(datetime.date.today())
    assert workdir.dated(tmp_path, runs.config(models)).data.date == today
