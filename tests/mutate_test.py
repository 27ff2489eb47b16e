"""The table of planted bugs keeps up with the code."""

import runpy

import pytest

import runs

TABLE = runpy.run_path(str(runs.ROOT / "tools" / "mutate.py"))["MUTATIONS"]


@pytest.mark.parametrize("file", sorted({row.file for row in TABLE}))
def test_every_bug_can_be_planted(file):
    """What a row replaces occurs exactly once, and its tests exist."""
    text = (runs.ROOT / "jopd" / file).read_text()
    for row in (row for row in TABLE if row.file == file):
        assert text.count(row.old) == 1, (row.kernel, row.bug)
        assert row.new != row.old
        assert (runs.ROOT / "tests" / row.test).exists()
