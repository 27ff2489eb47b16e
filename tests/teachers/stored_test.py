"""Scores of gold rows on disk."""

import json

import numpy as np
import pytest

from jopd.teachers import stored
from jopd.teachers.likely import Scores

SETTINGS = {"teacher": "big", "top_k": 2, "tokenizer": "sha256 abc"}


def scores(length: int, seed: int = 0, k: int = 2) -> Scores:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: -rng.random(shape).astype(np.float32)
    ids = rng.integers(0, 9, (length, k)).astype(np.int32)
    return Scores(draw(length), ids, draw(length, k))


ROWS = {f"row{n}": scores(n + 1, n) for n in range(5)}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "scores"
    stored.begin(place, SETTINGS)
    stored.append(place, dict(list(ROWS.items())[:3]))
    stored.append(place, dict(list(ROWS.items())[3:]))
    return place


def test_what_is_written_is_read_bit_by_bit(folder):
    table = stored.read(folder)
    assert table.settings == SETTINGS and table.rows.keys() == ROWS.keys()
    for key, row in ROWS.items():
        for one, other in zip(table.rows[key], row, strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape
            assert (one == other).all()


def test_scores_without_likely_tokens(tmp_path):
    stored.begin(tmp_path / "s", SETTINGS | {"top_k": 0})
    stored.append(tmp_path / "s", {"a": scores(3, k=0)})
    found = stored.read(tmp_path / "s").rows["a"]
    assert found.ids.shape == found.likely.shape == (3, 0) and len(found.logp) == 3


def test_a_row_is_known_by_its_tokens():
    of = lambda *parts: stored.key_of(*map(np.asarray, parts))
    assert of([1, 2], [3]) == of(np.int64([1, 2]), [3])
    assert (
        len({of([1, 2], [3]), of([1], [2, 3]), of([1, 2], [4]), of([1, 2, 3], [])}) == 4
    )


def test_a_folder_is_of_one_kind(folder, tmp_path):
    stored.begin(folder, SETTINGS)  # goes on
    with pytest.raises(ValueError, match=r"top_k was 2, is 3.* choose another folder"):
        stored.begin(folder, SETTINGS | {"top_k": 3})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match=r"not empty and has no scores.json"):
        stored.begin(tmp_path / "mine", SETTINGS)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"top_k": "2"}', "[" * 100_000])
def test_settings_that_are_none(folder, content):
    (folder / "scores.json").write_text(content)
    with pytest.raises(ValueError, match="has no scores that can be read"):
        stored.read(folder)


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="make them with jopd score"):
        stored.read(tmp_path / "none")


def test_a_damaged_part_is_named(folder):
    stored.append(folder, {"last": scores(2)})
    part = folder / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"part-00001.parquet is damaged .*remove it"):
        stored.read(folder)
    part.unlink()
    assert len(stored.read(folder).rows) == 4
    # What is scored again stands beside what there was, not in its place.
    stored.append(folder, {"row9": scores(2)})
    assert len(stored.read(folder).rows) == 5


def test_half_a_part_is_none(folder):
    (folder / "part-00002.tmp").write_bytes(b"PAR1")
    assert len(stored.read(folder).rows) == 5


def test_other_rows_and_other_tokens_are_refused():
    prompt, answer = np.int32([1, 2]), np.int32([3])
    table = stored.Table(SETTINGS, {stored.key_of(prompt, answer): scores(1)})
    wanted = {"tokenizer": SETTINGS["tokenizer"], "top_k": 2}
    rows = [("a", prompt, answer)]
    check = lambda rows=rows, **more: stored.check(
        "teacher", "DIR", table, wanted | more, rows
    )
    check()
    check(top_k=1)
    with pytest.raises(ValueError, match="tokens of another tokenizer"):
        check(tokenizer="sha256 xyz")
    with pytest.raises(ValueError, match=r"top_k=3, but DIR has 2 likely"):
        check(top_k=3)
    with pytest.raises(ValueError, match=r"no scores of 1 of 2 gold rows, such as 'b'"):
        check([*rows, ("b", prompt, np.int32([4]))])


def test_settings_are_written_whole(folder):
    assert json.loads((folder / "scores.json").read_text()) == SETTINGS
    assert not list(folder.glob("*.tmp"))
