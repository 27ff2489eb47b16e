"""Checkpoints: all that a run needs to go on bit for bit, written by orbax.

A checkpoint is one folder ``<directory>/<step>``. Orbax writes it under a temporary
name and renames it when complete. Right after that a list of checksums is put beside
its files (``sums``); a folder that does not agree with it is damaged, never restored.
"""

import contextlib
import re
import shutil
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from jopd.training import sums

PyTree = Any
_SCALARS = (bool, int, float, str)


class Restored(NamedTuple):
    """A checkpoint that was read back: step, state and the ``meta`` saved with it."""

    step: int
    state: PyTree
    meta: dict


class Checkpointer:
    """Saves asynchronously, keeps the last and the best, restores the newest readable.

    Leaves of a state may be ``jax.Array`` (typed PRNG keys included), numpy arrays and
    scalars, ``bool``, ``int``, ``float`` and ``str``. They come back bit-identical. The
    state may be donated or changed in place as soon as ``save`` returns.

    Args:
      directory: where checkpoints live; created when missing. Left-overs of
        interrupted saves in it are removed.
      keep_last: number of newest checkpoints to keep, at least 1.
      keep_best: number of best checkpoints to keep besides those; 0 keeps none.
      best_mode: ``"max"`` where a larger metric is better (a reward), ``"min"`` where a
        smaller one is (a KL).

    Raises:
      ValueError: a limit or mode outside of the above.
      OSError: ``directory`` cannot be created.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        best_mode: str = "max",
    ):
        if keep_last < 1 or keep_best < 0 or best_mode not in ("max", "min"):
            raise ValueError(
                f"keep_last={keep_last}, keep_best={keep_best}, best_mode={best_mode!r}"
                " is not possible; use keep_last >= 1, keep_best >= 0 and 'max' or "
                "'min'"
            )
        self.directory = Path(directory).absolute()
        self._keep = dict(keep_last=keep_last, keep_best=keep_best, best_mode=best_mode)
        self._metrics: dict[int, float | None] = {}
        self._pending, self._saved = None, time.monotonic()
        context = ocp.Context()
        # Made in the background, a folder that cannot be created leaves a thread that
        # waits 20 minutes for it and holds up the exit of the process.
        context.asynchronous.create_directories_asynchronously = False
        handlers = ocp.handlers.local_registry()
        handlers.add(ocp.handlers.JsonHandler, checkpointable_name="meta")
        context.checkpointables.registry = handlers
        try:
            self._orbax = ocp.training.Checkpointer(
                self.directory,
                context=context,
                preservation_policy=_Preserve(self._kept),
                cleanup_tmp_directories=True,
            )
        except Exception as error:  # of the disk, or of a step's damaged metadata
            raise OSError(
                f"cannot use {self.directory} for checkpoints: {_root(error)}; move a "
                "damaged step away, or choose a working directory that can be written"
            ) from error
        for step in self.steps():
            self._metrics[step] = sums.metric_of(self.directory / str(step))

    def save(
        self, step: int, state: PyTree, meta: Mapping, metric: float | None = None
    ) -> None:
        """Starts to save ``state`` as of ``step``; returns once it is copied to host.

        Waits for the save before, if that is still running.

        Args:
          step: must not be saved yet.
          state: see the class.
          meta: anything JSON can hold; comes back from ``restore``.
          metric: what "best" is judged by; ``None`` or NaN is never the best.

        Raises:
          ValueError: the step exists, or a leaf is of an unknown type.
          OSError: this save or the one before failed. Earlier checkpoints are intact.
        """
        self.wait()
        if step in self.steps():
            raise ValueError(
                f"step {step} is saved under {self.directory} already; save it once, "
                "or see steps()"
            )
        metric = sums.comparable(metric)
        record = dict(meta=dict(meta), leaves=_describe(state))
        items = dict(state=jax.tree.map(_to_saved, state), meta=record)
        self._metrics[step], self._saved = metric, time.monotonic()
        try:
            response = self._orbax.save_checkpointables_async(step, items, force=True)
        except Exception as error:
            raise self._failure(step, error) from error
        self._pending = _Pending(self.directory / str(step), response, metric)

    def judge(self, step: int, metric: float | None) -> None:
        """Gives a saved checkpoint the metric that was not known when it was saved.

        Raises:
          OSError: the save failed, or its sums cannot be written.
        """
        self.wait()
        self._metrics[step] = metric = sums.comparable(metric)
        folder = self.directory / str(step)
        known = sums.read(folder)["files"] if sums.listed(folder) else None
        sums.write(folder, metric, known)

    def restore(self, template: PyTree, step: int | None = None) -> Restored | None:
        """Reads a checkpoint back; None if there is none.

        Without ``step`` it is the newest readable one. Damaged checkpoints that are
        newer than it are renamed to ``<step>.damaged`` (so that the run can save these
        steps again) and named in one warning.

        Args:
          template: a state of the same structure: arrays, or ``jax.ShapeDtypeStruct``
            for ``jax.Array`` leaves. Its shardings say where arrays go.
          step: read this one and no other.

        Raises:
          ValueError: the template has other leaves, shapes or dtypes than the
            checkpoint, or ``step`` does not exist.
          OSError: there are checkpoints, and none can be read.
        """
        self.wait()
        if step is not None and step not in self.steps():
            raise ValueError(
                f"no checkpoint of step {step} under {self.directory}; there are "
                f"{self.steps()}"
            )
        damaged: dict[int, Exception] = {}
        for candidate in [step] if step is not None else self.steps()[::-1]:
            record = self._load(candidate, "meta", None, damaged)
            if candidate in damaged:
                continue
            require_same(record["leaves"], template, candidate)
            target = jax.tree.map(_to_saved, template)
            state = self._load(candidate, "state", target, damaged)
            if candidate in damaged:
                continue
            self._set_aside(damaged, candidate)
            state = jax.tree.map(_from_saved, template, state)
            return Restored(candidate, state, record["meta"])
        if damaged:
            raise OSError(
                f"no checkpoint under {self.directory} can be read: {_causes(damaged)}."
                " Restore the folder from a copy, or move it away to start anew"
            )
        return None

    def steps(self) -> list[int]:
        """Steps that are saved, ascending; one that is still being written included."""
        return [info.step for info in self._orbax.checkpoints]

    def best_steps(self) -> list[int]:
        """The saved steps that have a metric, the best first (``ranked``)."""
        known = {s: self._metrics.get(s) for s in self.steps()}
        return ranked(known, self._keep["best_mode"])

    def seconds_since(self) -> float:
        """Since the last save of this process, or since it opened the folder."""
        return time.monotonic() - self._saved

    def wait(self) -> None:
        """Blocks until the last save is on disk; raises OSError if it failed."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        pending.join()
        if pending.error is not None:
            step = int(pending.folder.name)
            raise self._failure(step, pending.error) from pending.error

    def close(self) -> None:
        """``wait``, then gives up threads and handles."""
        try:
            self.wait()
        except OSError:
            with contextlib.suppress(Exception):  # the same failure once more
                self._orbax.close()
            raise
        self._orbax.close()

    def _kept(self, steps: list[int]) -> set[int]:
        return kept_steps({s: self._metrics.get(s) for s in steps}, **self._keep)

    def _load(self, step, name, target, damaged):
        """One part of a checkpoint; on failure None, and the cause in ``damaged``."""
        try:
            sums.check(self.directory / str(step), name)
            found = self._orbax.load_checkpointables(step, {name: target})[name]
            if name == "meta" and not {"leaves", "meta"} <= set(found):
                raise OSError("meta has lost its keys")
            return found
        except Exception as error:
            damaged[step] = error
            return None

    def _set_aside(self, damaged: Mapping[int, Exception], restored: int) -> None:
        if not damaged:
            return
        if jax.process_index() == 0:
            for step in damaged:
                source = self.directory / str(step)
                aside = source.with_suffix(".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                source.rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("jopd damaged checkpoints set aside")
        self._orbax.reload()
        warnings.warn(
            f"checkpoints under {self.directory} are damaged and were renamed to "
            f"<step>.damaged: {_causes(damaged)}. Restored step {restored} instead",
            stacklevel=3,
        )

    def _failure(self, step: int, error: Exception) -> OSError:
        whole = sums.steps_in(self.directory)
        last = f"step {whole[-1]} is complete" if whole else "there is none before it"
        free = shutil.disk_usage(self.directory.parent).free / 2**20
        return OSError(
            f"the checkpoint of step {step} could not be written under "
            f"{self.directory} ({free:,.0f} MiB free on that disk): {_root(error)}. Of "
            f"the earlier ones, {last}. Make room or choose another working directory, "
            "then run the same command again to go on from there"
        )


def kept_steps(
    metrics: Mapping[int, float | None],
    *,
    keep_last: int,
    keep_best: int,
    best_mode: str,
) -> set[int]:
    """Steps to keep: the ``keep_last`` newest and the ``keep_best`` best ones."""
    newest = sorted(metrics)[-keep_last:]
    return {*newest, *ranked(metrics, best_mode)[:keep_best]}


def ranked(metrics: Mapping[int, float | None], best_mode: str) -> list[int]:
    """Steps with a metric, the best first, the later one of equals before."""
    sign = 1 if best_mode == "max" else -1
    known = [(sign * m, step) for step, m in metrics.items() if m is not None]
    return [step for _, step in sorted(known, reverse=True)]


class _Preserve:
    """Orbax's preservation policy, judged by metrics that live outside of orbax.

    Its own ``BestN`` reads a metrics file of each step on opening, and one damaged such
    file makes all checkpoints unreachable.
    """

    def __init__(self, kept):
        self._kept = kept

    def should_preserve(self, checkpoints, *, context):
        del context
        kept = self._kept([info.step for info in checkpoints])
        return [info.step in kept for info in checkpoints]


class _Pending(threading.Thread):
    """Waits for a save that is under way, and writes its sums as soon as it is done."""

    def __init__(self, folder: Path, response, metric: float | None):
        super().__init__(name="jopd checkpoint sums")
        self.folder, self.error = folder, None
        self._response, self._metric = response, metric
        self.start()

    def run(self):
        try:
            self._response.result()
            if jax.process_index() == 0:
                sums.write(self.folder, self._metric)
        except Exception as error:
            self.error = error


def _to_saved(leaf):
    """What orbax takes instead of a leaf that it refuses."""
    if 0 in np.shape(leaf):
        return None
    return np.asarray(leaf) if isinstance(leaf, np.generic) else leaf


def _from_saved(template, leaf):
    if 0 in np.shape(template):
        empty = isinstance(template, jax.ShapeDtypeStruct)
        return jnp.zeros(template.shape, template.dtype) if empty else template
    sharding = getattr(template, "sharding", None)
    if isinstance(leaf, jax.Array) and sharding not in (None, leaf.sharding):
        # Orbax may spell an equal sharding otherwise, and jit compiles anew for it.
        return jax.device_put(leaf, sharding)
    return leaf[()] if isinstance(template, np.generic) else leaf


def _describe(tree: PyTree) -> dict[str, str]:
    """Path of each leaf to what it is, such as ``float32[2, 3]``."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): _kind(path, leaf) for path, leaf in leaves}


def _kind(path, leaf) -> str:
    if isinstance(leaf, _SCALARS):
        return type(leaf).__name__
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic)):
        return f"{leaf.dtype}{list(leaf.shape)}"
    raise ValueError(
        f"leaf {jax.tree_util.keystr(path)} of the state is a {type(leaf).__name__}, "
        "which a checkpoint cannot hold; use an array, bool, int, float or str"
    )


def require_same(saved: Mapping[str, str], template, step: int, *, part=False) -> None:
    """Checks what was saved against what is wanted, all of it or a ``part``.

    Raises:
      ValueError: names leaves that differ.
    """
    wanted = _describe(template)
    if part:
        saved = {_spelt(path): kind for path, kind in saved.items()}
        wanted = {_spelt(path): kind for path, kind in wanted.items()}
        saved = {path: kind for path, kind in saved.items() if path in wanted}
    if saved == wanted:
        return
    paths = sorted(saved.keys() | wanted.keys())
    differ = [p for p in paths if saved.get(p) != wanted.get(p)]
    shown = "; ".join(
        f"{p} is {saved.get(p, 'absent')} there and {wanted.get(p, 'absent')} here"
        for p in differ[:5]
    )
    raise ValueError(
        f"the checkpoint of step {step} does not fit this run in {len(differ)} of "
        f"{len(paths)} leaves: {shown}. Use the config it was saved with, or another "
        "working directory"
    )


def _spelt(path: str) -> str:
    """A path whose keys read alike, be they of a record or of a dict."""
    return re.sub(r"\['(\w+)'\]", r".\1", path)


def _causes(damaged: Mapping[int, Exception]) -> str:
    return "; ".join(f"step {s} ({_root(e)})" for s, e in sorted(damaged.items()))


def _root(error: BaseException) -> str:
    """What went wrong first; an error that is kept and raised again is in a ring."""
    chain = [error]
    while inner := chain[-1].__cause__ or chain[-1].__context__:
        if any(inner is known for known in chain):
            break
        chain.append(inner)
    return f"{type(chain[-1]).__name__}: {chain[-1]}".splitlines()[0][:200]
