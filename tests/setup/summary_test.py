"""What the start-up table says of the rows."""

import datetime
import json
import shutil

import pytest

import runs
from jopd.setup import experiment, inputs
from jopd.setup.summary import summary_rows

DATED = "{{ strftime_now('%d') }}+{{ messages[0].content }}"


@pytest.fixture
def dated(models, tmp_path):
    """A student whose template prints the day, and rows with one column too many."""
    folder = shutil.copytree(models / "student", tmp_path / "student")
    tokenizer = inputs.load_tokenizer(str(folder))
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(folder)
    rows = [{"prompt": f"{n}+1=", "answer": str(n + 1), "level": n} for n in range(9)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return dict(student__path=str(folder), data__path=str(path))


def test_columns_that_nothing_is_made_of_and_the_day(models, dated):
    e = experiment.build(runs.config(models, **dated, data__date="2024-02-29"))
    said = dict(summary_rows(e))
    assert said["not read"] == "columns level"
    assert said["date"].startswith("2024-02-29, ")
    assert all(text.startswith("29+") for text in e.rows.train.texts)
    today = experiment.build(runs.config(models, **dated))
    assert dict(summary_rows(today))["date"].startswith(str(datetime.date.today()))
    plain = dict(summary_rows(experiment.build(runs.config(models))))
    assert "date" not in plain and "not read" not in plain
    with pytest.raises(ValueError, match=r"data.date='soon'.*YYYY-MM-DD"):
        experiment.build(runs.config(models, data__date="soon"))
