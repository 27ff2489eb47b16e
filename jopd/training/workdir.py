"""What a run leaves on disk, apart from checkpoints: config, summary, samples."""

import importlib.metadata
import json
import os
import subprocess
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jopd.data import templates
from jopd.losses.binding import name_of
from jopd.reporting import metrics

# Keys that may differ when a run is continued: they change how long it goes on or what
# it writes, not what an update does.
FREE_TO_CHANGE = ("steps", "resume", "log", "checkpoint", "export", "compilation_cache")
# Of the way to a teacher, not of the teacher.
FREE_KEYS = tuple(
    f"remote.{key}"
    for key in ("url", "key_env", "concurrency", "timeout_seconds", "retries")
)
PACKAGES = ("jopd", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def write_json(path: Path, value) -> None:
    """Writes whole or not at all."""
    metrics.write_atomically(path, json.dumps(value, indent=2, default=str) + "\n")


def written(config: dict) -> dict:
    """The config as it is kept: functions by the names that a config may use."""
    return json.loads(json.dumps(config, default=name_of))


def flatten(config: dict, prefix: str = "") -> dict:
    """Nested keys to dotted ones."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def dated(workdir: Path, config: ConfigDict) -> ConfigDict:
    """``config`` with a day for templates to print: its own, the run's, else today.

    So a run that goes on another day reads the prompts that it began with.
    """
    if config.data.date:
        return config
    config = config.copy_and_resolve_references()
    try:
        day = json.loads((workdir / "config.json").read_text())["data"]["date"]
    except (OSError, ValueError, KeyError, TypeError):
        day = str(templates.day_of(""))  # what is damaged is for ``prepare`` to say
    config.data.date = str(day)
    return config


def prepare(workdir: Path, config: dict) -> None:
    """Checks that ``workdir`` can take a run of ``config``, or go on with it.

    Leaves no file: what fails before training must not stand in the way of the next
    try. ``write_config`` comes once everything is loaded.

    Raises:
      ValueError: the directory cannot be written, holds files that are not a run's, a
        run of another config, or a run while ``resume`` is False.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"workdir {workdir} cannot be written ({error.strerror}); choose another "
            "with --workdir=DIR"
        ) from error
    path = workdir / "config.json"
    if path.exists():
        _check_same(workdir, json.loads(path.read_text()), config)
    elif any(workdir.iterdir()):
        raise ValueError(
            f"workdir {workdir} is not empty and holds no run of jopd (no "
            "config.json); "
            f"choose another with --workdir=DIR"
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
    old, new = (
        flatten(json.loads(json.dumps(config, default=str))) for config in (before, now)
    )
    for key in sorted(old.keys() | new.keys()):
        if key in FREE_KEYS or key.split(".")[0] in FREE_TO_CHANGE:
            continue
        if old.get(key) != new.get(key):
            raise ValueError(
                f"workdir {workdir} holds a run of another config: {key} was "
                f"{old.get(key)!r} and is now {new.get(key)!r}; choose another with "
                f"--workdir=DIR or give the same value"
            )


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


def cut_samples(directory: Path, *, after: int, started: bool) -> None:
    """Drops the samples that a resumed run writes again.

    Those are of later steps, of the final evaluation, and all of them where the run
    was not ``started``, i.e. has no checkpoint to tell that it was evaluated before.
    """
    path = directory / "samples.jsonl"
    if path.exists():
        kept = [
            row
            for row in metrics.read(path)
            if started and row["step"] <= after and row["phase"] != "after"
        ]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        metrics.write_atomically(path, text)


def append_samples(path: Path, step: int, phase: str, rows: list[dict]) -> None:
    """Adds rollouts to ``samples.jsonl``."""
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps({"step": step, "phase": phase, **row}) + "\n")
