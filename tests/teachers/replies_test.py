import json

import pytest

from jopd.teachers import replies


def kept(path) -> replies.Kept:
    return replies.Kept(path, "texts", 2, str)


def test_a_reply_is_found_by_the_whole_request(tmp_path):
    place = replies.file_of(tmp_path, "http://a", {"seed": 1, "n": 2})
    assert place == replies.file_of(tmp_path, "http://a", {"n": 2, "seed": 1})
    assert place != replies.file_of(tmp_path, "http://a", {"n": 2, "seed": 2})
    assert (
        replies.file_of(None, "http://a") is None and replies.read(kept(None)) is None
    )
    assert replies.read(kept(place)) is None, "nothing there is no damage"
    replies.write(place, {"texts": ["a", "\N{SNOWMAN}"]})
    assert replies.read(kept(place)) == ["a", "\N{SNOWMAN}"]
    replies.check(tmp_path)
    assert list(tmp_path.rglob("*.*")) == [place]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"{",
        b"[]",
        b"{}",
        b"null",
        b"[" * 100_000,
        b'{"texts": "ab"}',
        b'{"texts": ["a"]}',
        b'{"texts": ["a", 3]}',
        b'{"texts": null}',
    ],
)
def test_a_damaged_one_is_a_warning(tmp_path, content):
    path = tmp_path / "reply.json"
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"reply.json is damaged \(.*asked again"):
        assert replies.read(kept(path)) is None
    replies.write(path, {"texts": ["a", "b"]})
    assert json.loads(path.read_text())["texts"] == ["a", "b"]


def test_other_texts_than_were_kept_are_damage(tmp_path):
    path = tmp_path / "reply.json"
    replies.write(path, {"texts": ["a", "b"]})
    path.write_text(path.read_text().replace('"b"', '"c"'))
    with pytest.warns(UserWarning, match="other texts than were kept"):
        assert replies.read(kept(path)) is None
    path.write_text('{"texts": ["a", "c"]}')  # as it was kept before there was a sum
    assert replies.read(kept(path)) == ["a", "c"]
