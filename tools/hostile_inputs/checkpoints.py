"""Checkpoint folders: files cut, flipped, lost, swapped between steps, or put there.

Right is a state that was saved, bit for bit: of the newest step, or of the one before
where a warning says that the newest is damaged.
"""

import random
import shutil
import warnings
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from absl import logging

from hostile_inputs import Case, damage, nasty
from jopd.training.checkpoint import Checkpointer

STEPS = (3, 6)


def prepare(scratch: Path):
    logging.set_verbosity(logging.FATAL)
    clean = scratch / "clean"
    saver = Checkpointer(clean)
    for step in STEPS:
        saver.save(step, _state(step), {"step": step, "note": "é"}, metric=0.5)
    saver.close()

    def make(rng: random.Random) -> Case:
        folder = scratch / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(clean, folder)
        said = "; ".join(_change(rng, folder) for _ in range(rng.choice([1, 1, 2, 4])))
        return Case(said, (str(folder),), lambda: _restore(folder))

    return make


def _state(step: int) -> dict:
    rng = np.random.default_rng(step)
    return {
        "train": {
            "step": np.int32(step),
            "weights": rng.normal(size=(64, 65)).astype(np.float32),
            "half": rng.normal(size=5).astype(ml_dtypes.bfloat16),
            "none": np.zeros((0, 3), np.float32),
        },
        "buffer": [rng.integers(0, 99, (4, 7)).astype(np.int32), np.array([True])],
        "count": step,
        "rate": step / 7,
    }


def _change(rng: random.Random, folder: Path) -> str:
    within = [path for path in folder.rglob("*") if path != folder]
    # Not by the names of orbax's files, which are drawn anew in every process.
    order = lambda path: (str(path.parent), path.stat().st_size, path.name)
    paths = sorted(within, key=order) or [folder]
    held = [path for path in paths if path.is_file()] or paths
    how = rng.randrange(10)
    path = rng.choice(held if how < 8 else paths)
    name = str(path.relative_to(folder.parent))
    if how < 3:  # one bit of the largest file: nobody but a checksum can see it
        path = max(held, key=lambda path: path.stat().st_size)
        data = bytearray(path.read_bytes())
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        return f"bit at {at} of {path.relative_to(folder)}"
    if how < 6 and path.is_file():
        data, said = damage(rng, path.read_bytes())
        path.write_bytes(data)
        return f"{name} {said}"
    if how == 6:
        other = rng.choice(held)
        if path.is_file() and other.is_file():
            path.write_bytes(other.read_bytes())
        return f"{name} is {other.name} of {other.parent.parent.name}"
    if how == 7:
        place = rng.choice([str(nasty(rng)), "9", "007", "6.tmp", "config.json"])
        place = "".join(char for char in place if char.isalnum())[:30] or "x"
        (folder / place).mkdir(exist_ok=True)
        return f"folder {place!r} put there"
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return f"{name} gone"


def _restore(folder: Path) -> str | None:
    template = jax.tree.map(lambda leaf: leaf, _state(1))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        saver = Checkpointer(folder)
        try:
            found = saver.restore(template)
        finally:
            saver.close()
    if found is None:
        left = [name for name in map(str, STEPS) if (folder / name).exists()]
        return f"nothing restored, but {left} are there" if left else None
    if found.step not in STEPS:
        return f"step {found.step} was never saved"
    if found.step != STEPS[-1] and (folder / f"{STEPS[-1]}.damaged").exists():
        if not any("damaged" in str(warning.message) for warning in said):
            return "an earlier step without a word"
    if found.meta != {"step": found.step, "note": "é"}:
        return f"meta {found.meta}"
    if any("without checksums" in str(warning.message) for warning in said):
        return None  # the list of them is gone, too: it was said that nobody knows
    wanted = jax.tree.leaves(_state(found.step))
    for ours, want in zip(jax.tree.leaves(found.state), wanted, strict=True):
        same = np.asarray(ours).tobytes() == np.asarray(want).tobytes()
        if not same or np.asarray(ours).dtype != np.asarray(want).dtype:
            return f"step {found.step}: {np.shape(want)} is not what was saved"
    return None
