"""What a run leaves on disk, apart from checkpoints: config, summary, samples."""

import contextlib
import copy
import fcntl
import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jopd.data import templates
from jopd.losses.binding import name_of
from jopd.reporting import metrics
from jopd.setup import config as configs
from jopd.setup import keys
from jopd.teachers.secrecy import hidden_within

LOCK = ".lock"
STALE_SECONDS = 3600  # an export that was begun before that is not going on
# What a run writes in its directory, besides a lock that goes with it.
FILES = (
    "config.json",
    "inputs.json",
    "metrics.jsonl",
    "samples.jsonl",
    "evaluation.json",
    "summary.json",
    "report.html",
)
FOLDERS = ("checkpoints", "export", "tensorboard", "wandb")
# Keys that may differ when a run is continued: they change how long it goes on, what it
# writes, or how an update is cut up, not what an update does.
FREE_TO_CHANGE = (
    "steps",
    "epochs",
    "resume",
    "log",
    "checkpoint",
    "export",
    "eval",
    "mesh",
    "compilation_cache",
)
FREE_KEYS = (
    "optimizer.accumulate",
    "rollout.at_once",
    # Of the way to a teacher, not of the teacher.
    *(
        f"remote.{key}"
        for key in (
            "url",
            "key_env",
            "cache_dir",
            "concurrency",
            "timeout_seconds",
            "retries",
            "token_budget",
        )
    ),
    "audit.judge_first",
)
COPY_KEYS = (
    *("every_steps", "check_steps", "reward_window", "reward_margin", "tail_ratio"),
    *("reward_rate", "length_growth", "max_truncation"),  # of earlier releases
)
FIXED_KEYS = ("eval.verifier", "eval.reward_truncated")  # what updates are rewarded by
PACKAGES = ("jopd", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def write_json(path: Path, value) -> None:
    """Writes whole or not at all."""
    metrics.write_atomically(path, json.dumps(value, indent=2, default=str) + "\n")


def written(config: dict) -> dict:
    """The config as it is kept: functions by name, nothing that is secret."""
    return hidden_within(json.loads(json.dumps(config, default=name_of)))


def dated(workdir: Path, config: ConfigDict) -> ConfigDict:
    """``config`` with a day for templates to print: its own, the run's, else today.

    So a run that goes on another day reads the prompts that it began with.
    """
    if config.data.date:
        return config
    config = copy.deepcopy(config)  # in which keys still follow others
    try:
        day = json.loads((workdir / "config.json").read_text())["data"]["date"]
    except (OSError, ValueError, KeyError, TypeError):
        day = str(templates.day_of(""))  # what is damaged is for ``prepare`` to say
    config.data.date = str(day)
    return config


@contextlib.contextmanager
def locked(workdir: Path):
    """Inside, ``workdir`` exists and only this process writes to it.

    The lock is the kernel's, so the death of its holder releases it; its file names the
    holder and goes with it. On a file system without locks nothing is held.

    Raises:
      ValueError: it cannot be written, or another process has it; names which.
    """
    _try_directory(workdir)
    file = _open_lock(workdir / LOCK, workdir)
    try:
        yield
    finally:
        (workdir / LOCK).unlink(missing_ok=True)  # before the lock goes, not behind it
        file.close()


def _open_lock(path: Path, workdir: Path):
    """``path`` opened and locked; again, if its last holder has just removed it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise ValueError(
            f"workdir {workdir} is in use by {holder}; wait for its end, or choose "
            "another with --workdir=DIR"
        ) from None
    except OSError:
        pass
    if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
        file.close()
        return _open_lock(path, workdir)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def _try_directory(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.write_text("")
        probe.unlink(missing_ok=True)  # a run that begins removes it, too
    except OSError as error:
        raise ValueError(
            f"workdir {workdir} cannot be written ({error.strerror}); choose another "
            "with --workdir=DIR"
        ) from error


def prepare(workdir: Path, config: dict) -> bool:
    """Checks that ``workdir`` can take a run of ``config``, or go on with it.

    Returns whether it is a new one.

    Leaves no file: what fails before training must not stand in the way of the next
    try. ``write_config`` comes once everything is loaded. What a killed process left
    half written is removed; files that are not a run's are let be.

    Raises:
      ValueError: something is where the run will write, is damaged or not its own; a
        run of another config, or a run while ``resume`` is False.
    """
    for half in (*(workdir / f"{name}.tmp" for name in FILES), workdir / ".writable"):
        half.unlink(missing_ok=True)
    for half in (*workdir.glob(".export.*"), *workdir.glob(".export-*.*")):
        # One that is being written is let be: ``jopd export`` may run beside the run.
        own = half.name.startswith(".export.")
        if own or time.time() - half.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(half, ignore_errors=True)
    _try_targets(workdir, config)
    path = workdir / "config.json"
    if path.exists():
        _check_same(workdir, read_config(workdir), config)
        return False
    kept = (*FILES, "checkpoints", "export")
    own = [name for name in kept if _holds_something(workdir / name)]
    if own:
        raise ValueError(
            f"workdir {workdir} is not empty and holds no run of jopd: {own[0]} is "
            "there, but no config.json; choose another with --workdir=DIR"
        )
    return True


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _try_targets(workdir: Path, config: dict) -> None:
    """What the run will write can be written; found now, not at its end."""
    for name in FILES:
        path = workdir / name
        if path.exists() and (not path.is_file() or not os.access(path, os.W_OK)):
            kind = "cannot be written" if path.is_file() else "is no file"
            raise ValueError(f"{path} {kind}; remove it: the run writes it")
    for name in FOLDERS:
        path = workdir / name
        if path.exists() and (not path.is_dir() or not os.access(path, os.W_OK)):
            kind = "cannot be written" if path.is_dir() else "is no folder"
            raise ValueError(f"{path} {kind}; remove it: the run writes it")
    export = workdir / "export"
    kept = _holds_something(export) and not (export / "config.json").is_file()
    if config["export"]["enabled"] and kept:
        raise ValueError(
            f"{export} is not empty and holds no model (no config.json); remove it, or "
            "set --config.export.enabled=False"
        )


def read_config(workdir: Path) -> dict:
    """The config that a run was started with, as ``written`` made it.

    Raises:
      ValueError: there is none, or it is damaged.
    """
    path = workdir / "config.json"
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
        reason = "it holds no keys"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)
    raise ValueError(
        f"{path} cannot be read: {reason}. Restore it from a copy, or move {workdir} "
        "away to start anew"
    )


def write_config(workdir: Path, config: dict) -> None:
    """From here on ``workdir`` belongs to ``config``."""
    write_json(workdir / "config.json", config)


def _check_same(workdir: Path, before: dict, now: dict) -> None:
    if not now["resume"]:
        raise ValueError(
            f"workdir {workdir} holds a run already and config.resume is False; choose "
            f"another with --workdir=DIR, remove it, or set --config.resume=True"
        )
    old, new = keys.flatten(before), keys.flatten(now)
    old = _of_older_release(new) | old
    differ = [
        f"{key} was {old.get(key)!r:.80} and is now {new.get(key)!r:.80}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and not may_change(key)
        and not (_is_idle(key, old) and _is_idle(key, new))
    ]
    if len(differ) > 40:  # a damaged file rather than another config
        differ[40:] = [f"and {len(differ) - 40} more"]
    if differ:
        raise ValueError(
            f"workdir {workdir} holds a run of another config: {'; '.join(differ)}; "
            "choose another with --workdir=DIR or give the same values"
        )


def _of_older_release(new: dict) -> dict:
    """What keys stand for that a run's own release did not know: their defaults.

    Templates printed the day on which they were read.
    """
    known = keys.flatten(written(configs.base_config().to_dict()))
    return {key: known[key] for key in new.keys() & known.keys()} | {
        "data.date": new.get("data.date")
    }


def _is_idle(key: str, flat: dict) -> bool:
    """Whether ``key`` says when a teacher is copied, of one that is not.

    Earlier releases had other such keys, which every run of theirs names.
    """
    whose, _, name = key.rpartition(".")
    if not whose.startswith("teacher"):
        return False
    copied = ("gated", "snapshot") if name == "every_steps" else ("gated",)
    return name in COPY_KEYS and flat.get(f"{whose}.weights", "path") not in copied


def may_change(key: str) -> bool:
    """Whether a run may be continued with another value of a dotted key."""
    if key in FIXED_KEYS:
        return False
    server = key.startswith("teacher") and key.endswith(".url")  # the way to it
    return server or key in FREE_KEYS or key.split(".")[0] in FREE_TO_CHANGE


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str | None:
    """Commit of the source tree, with a "+" if it has changes; None outside of git."""

    def git(*words: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX has a place."""
    if jax.config.jax_compilation_cache_dir:
        return
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    jax.config.update("jax_compilation_cache_dir", os.path.join(base, "jopd", "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cut_samples(
    directory: Path, *, after: int, started: bool, unmeasured: int | None = None
) -> None:
    """Drops the samples that a resumed run writes again.

    Those are of later steps, of the final evaluation, of that of step ``unmeasured``,
    and all of them where the run was not ``started``, i.e. has no checkpoint to tell
    that it was evaluated before.
    """
    again = lambda row: (
        row.get("phase") == "after"
        or (row.get("phase"), row["step"]) == ("train", unmeasured)
    )
    path = directory / "samples.jsonl"
    if path.exists():
        kept = [
            row
            for row in metrics.read(path)
            if started and row["step"] <= after and not again(row)
        ]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        metrics.write_atomically(path, text)


def append_samples(path: Path, step: int, phase: str, rows: list[dict]) -> None:
    """Adds rollouts to ``samples.jsonl``."""
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps({"step": step, "phase": phase, **row}) + "\n")


def keep_per_prompt(directory: Path, phase: str, found: dict) -> None:
    """Adds what each prompt earned to ``evaluation.json``, under "before" or "after".

    A phase that is measured again takes its own place; a file that is damaged is begun
    anew.
    """
    path = directory / "evaluation.json"
    try:
        kept = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        kept = {}
    text = json.dumps(kept | {phase: found})
    metrics.write_atomically(path, text + "\n")
