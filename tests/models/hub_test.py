"""Models of a hub, through the hub's own library: from a small server, a cache, or not.

Processes of their own: that library reads its settings when it is imported.
"""

import json
import os
import pty
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import hub_server
import runs
from jopd.models import files, hub, peft

# As commands do: config, tokenizer and weights are asked for one after the other.
FETCH = (
    "from jopd.models import files; path = {!r}; files.directory(path, ['*.json']); "
    "files.directory(path, files.TOKENIZERS); print(files.whole(path))"
)
PUSH = "from jopd.models import hub; print(hub.push({!r}, {!r}, private={}))"
FIXTURE = Path(__file__).parents[1] / "fixtures" / "parity_llama"


@pytest.fixture
def model(tmp_path) -> Path:
    folder = Path(shutil.copytree(FIXTURE, tmp_path / "model"))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "training_args.bin").write_bytes(b"not asked for")
    return folder


def child(source: str, home: Path, env: dict, **options):
    """Python with a hub cache of its own."""
    command = [sys.executable, "-c", source]
    known = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env = known | {"HF_HOME": str(home), "PYTHONPATH": str(runs.ROOT)} | env
    options = {"capture_output": True, "text": True, "timeout": 100} | options
    return subprocess.run(command, env=env, **options)


def one_line(done) -> str:
    """The message of the one error that a child ended with."""
    assert done.returncode == 1, done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(("FileNotFoundError: ", "ConnectionError: ", "ValueError: "))
    print(last)
    return last


def test_ids_and_revisions():
    assert hub.split("org/name") == ("org/name", None)
    assert hub.split("org/na.me-1@refs/pr/3") == ("org/na.me-1", "refs/pr/3")
    assert hub.joined(*hub.split("org/name@v1")) == "org/name@v1"
    assert hub.joined("org/name", None) == "org/name"
    for path in ("name", "a/b/c", "./a/b", "org/name@", "org/name@a b", "/org/name"):
        with pytest.raises(FileNotFoundError, match=r"is not a directory.*Qwen3-0.6B@"):
            hub.split(path)


def test_a_revision_is_fetched_once_said_and_used_without_a_connection(model, tmp_path):
    with hub_server.serving(model) as server:
        first = child(FETCH.format("org/name@v1"), tmp_path / "home", server.env)
        assert first.returncode == 0, first.stderr
        (line,) = first.stderr.splitlines()
        names = [p.name for p in model.iterdir() if p.suffix not in (".bin", ".npz")]
        assert line.startswith(f"fetching org/name@v1: {len(names)} files, ")
        folder = Path(first.stdout.strip())
        assert sorted(p.name for p in folder.iterdir()) == sorted(names)
        asked = {a.partition("/revision/")[2] for a in server.asked}
        assert asked == {"", "v1"}
        assert set(server.tokens) == {None}
        again = child(FETCH.format("org/name@v1"), tmp_path / "home", server.env)
        assert (again.stdout, again.stderr) == (first.stdout, "")
    alone = child(FETCH.format("org/name@v1"), tmp_path / "home", server.env)
    assert (alone.stdout, alone.stderr) == (first.stdout, "")


def test_the_token_of_the_environment_is_sent_and_not_shown(model, tmp_path):
    with hub_server.serving(model) as server:
        env = server.env | {"HF_TOKEN": "hf_sesame"}
        done = child(FETCH.format("other/name"), tmp_path, env)
    said = one_line(done)
    assert "Bearer hf_sesame" in server.tokens and "sesame" not in done.stderr
    assert "other/name is not a directory here, and as a hub id it could not" in said
    assert "RepositoryNotFoundError: 404" in said and "hf auth login" in said


def test_a_revision_that_is_not_there(model, tmp_path):
    with hub_server.serving(model) as server:
        said = one_line(child(FETCH.format("org/name@v9"), tmp_path, server.env))
    assert "org/name@v9" in said and "RevisionNotFoundError" in said


def test_on_a_terminal_the_bars_of_the_hub_are_shown(model, tmp_path):
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    with hub_server.serving(model) as server:
        options = dict(capture_output=False, stdout=subprocess.PIPE, stderr=slave)
        quiet = "from jopd import commandline; commandline.quiet()\n"
        source = quiet + FETCH.format("org/name")
        done = child(source, tmp_path, server.env | {"TERM": "xterm"}, **options)
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert done.returncode == 0
    assert shown.startswith("fetching org/name: ") and "Fetching" in shown


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_connection_and_without_a_copy(tmp_path, offline):
    env = {"HF_ENDPOINT": "http://localhost:9", "HF_HUB_OFFLINE": offline}
    done = child(FETCH.format("org/name@v1"), tmp_path, env)
    said = one_line(done)
    assert "org/name@v1 is not a directory here" in said
    reason = ("ConnectError: ", "OfflineModeIsEnabled: ")[int(offline)]
    assert reason in said and "give the directory of a copy" in said
    assert "fetching" not in done.stderr


def test_a_folder_of_the_cache_is_enough_and_a_part_of_it_is_said(model, tmp_path):
    """In the hub's layout, as another machine may have left it."""
    place = tmp_path / "hub" / "models--org--name"
    shutil.copytree(model, place / "snapshots" / hub_server.COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(hub_server.COMMIT)
    env = {"HF_ENDPOINT": "http://localhost:9"}
    done = child(FETCH.format("org/name"), tmp_path, env)
    folder = Path(done.stdout.strip())
    assert (done.returncode, done.stderr) == (0, "")
    assert folder.parts[-3:] == (place.name, "snapshots", hub_server.COMMIT)
    (folder / "model.safetensors").unlink()
    said = one_line(child(FETCH.format("org/name"), tmp_path, env))
    assert "org/name: only a part of it" in said and "ConnectError" in said


def test_an_adapter_keeps_the_revision_of_its_base(model, tmp_path, monkeypatch):
    asked = []
    fetch = lambda path, patterns: asked.append(path) or model
    monkeypatch.setattr(files.hub, "fetch", fetch)
    about = {"r": 1, "lora_alpha": 1, "base_model_name_or_path": "org/name"}
    (tmp_path / peft.CONFIG).write_text(json.dumps(about | {"revision": "v1"}))
    assert peft.base_of(tmp_path) == model
    (tmp_path / peft.CONFIG).write_text(json.dumps(about | {"revision": None}))
    assert peft.base_of(tmp_path) == model
    assert asked == ["org/name@v1", "org/name"]


# What is pushed.


def is_private(asked: dict) -> bool:
    """As releases of the hub's library say it."""
    return asked.get("visibility") == "private" or asked.get("private") is True


def test_a_folder_is_pushed_and_private_unless_asked(model, tmp_path):
    token = {"HF_TOKEN": "hf_sesame"}
    source = PUSH.format(str(model), "org/made", True)
    with hub_server.serving(model) as server:
        done = child(source, tmp_path, server.env | token)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{server.env['HF_ENDPOINT']}/org/made\n"
        assert done.stderr == ""
    (created,) = server.created
    assert created["name"] == "made" and is_private(created)
    assert set(server.pushed) == {p.name for p in model.iterdir()}
    weights = (model / "model.safetensors").read_bytes()
    assert server.pushed["model.safetensors"] == weights
    with hub_server.serving(model, private=False) as server:
        said = one_line(child(source, tmp_path, server.env | token))
        assert "org/made is there and public" in said and "--visibility=public" in said
        assert not server.pushed
        source = PUSH.format(str(model), "org/made", False)
        assert child(source, tmp_path, server.env | token).returncode == 0
        assert server.pushed and not is_private(server.created[-1])


def test_what_cannot_be_pushed_is_one_line(model, tmp_path):
    source = PUSH.format(str(model), "org/made", True)
    with hub_server.serving(model) as server:
        said = one_line(child(source, tmp_path, server.env))
    assert "could not be pushed to org/made" in said and "401" in said
    assert "hf auth login, or HF_TOKEN" in said
    away = {"HF_ENDPOINT": "http://localhost:9", "HF_TOKEN": "hf_sesame"}
    said = one_line(child(source, tmp_path, away))
    assert "ConnectError" in said and "sesame" not in said
    for path in ("name", "org/name@v1", "", "a/b/c"):
        with pytest.raises(ValueError, match=r"push_to_hub=.*give org/name"):
            hub.push(model, path)
