"""What is said of keys: every comment of the base config reaches ``--help``."""

import shlex
from pathlib import Path

from jopd.setup import config, keys

BASE = config.base_config()


def test_every_key_is_listed_with_its_comment():
    said = keys.comments()
    assert set(keys.flatten(BASE)) <= set(said)
    assert said["steps"] == "updates"
    assert said["teacher.context"].startswith("Template of its prompt: {question}")
    assert said["rollout.early_stop.window"].startswith("latest tokens")
    assert said["mesh.fsdp"] == "-1: all that is left"
    assert said["mix"].startswith("Shares of an update's rows by source.")


def test_no_comment_is_lost():
    """Every word of every comment within the keys is said of some key or section."""
    text = Path(config.__file__).read_text().split("c.seed = 0")[1]
    text = text.split("# A misspelt key")[0]
    shown = " ".join(keys.comments().values())
    for line in text.splitlines():
        comment = line.partition("  # ")[2] or line.strip().removeprefix("# ")
        if "# " in line:
            assert comment in shown, line


def test_the_listing_has_the_order_of_the_config_and_fits():
    lines = keys.explained(BASE, 90).splitlines()
    listed = [line.split("=")[0].strip() for line in lines if line[:3].strip()]
    known = [name for name in listed if name in keys.flatten(BASE)]
    assert known == [key for key in keys.comments() if key in keys.flatten(BASE)]
    assert max(map(len, lines)) <= 90


def test_keys_as_flags_are_words_of_a_shell():
    words = shlex.split(keys.as_flags(BASE))
    assert len(words) == len(keys.flatten(BASE))
    assert "--config.data.levels=()" in words
