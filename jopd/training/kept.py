"""Checkpoints of a run, read by others: a model for a command, a start for a run."""

import contextlib
import json
import tempfile
from pathlib import Path

import jax
import optax
from orbax.checkpoint import v1 as ocp

from jopd.models import decoder, files, hf, hub, lora
from jopd.reporting import card, console
from jopd.setup import inputs
from jopd.setup import optimizer as transforms
from jopd.training import checkpoint, step, sums, workdir


def pick(run: Path, which: str) -> int:
    """The step of ``which`` checkpoint of a run: "last", "best" or a number.

    Raises:
      ValueError: there is none, or none was judged; says which there are.
    """
    folder = run / "checkpoints"
    metrics = {at: sums.metric_of(folder / str(at)) for at in sums.steps_in(folder)}
    if not metrics:
        raise ValueError(f"{run} has no checkpoints; give the folder of a run")
    if which == "last":
        return max(metrics)
    there = ", ".join(map(str, sorted(metrics)))
    if which == "best":
        best = checkpoint.ranked(metrics, "max")
        if not best:
            raise ValueError(
                f"{run} has no best checkpoint: none was evaluated so far "
                f"(eval.every_steps); give last or one of {there}"
            )
        return best[0]
    if which.isdecimal() and int(which) in metrics:
        return int(which)
    raise ValueError(
        f"{run} has no checkpoint {which!r}; give last, best or one of {there}"
    )


def read(run: Path, at: int, template) -> tuple:
    """(part of the state saved at step ``at``, what was saved beside it).

    Nothing is written, so that the run may be under way.

    Args:
      template: dicts and tuples of arrays as in ``state.Run``, or some of them.

    Raises:
      ValueError: it is damaged or gone, or holds other leaves there.
    """
    folder = run.absolute() / "checkpoints" / str(at)  # orbax takes no other
    handlers = ocp.handlers.local_registry()
    handlers.add(ocp.handlers.JsonHandler, checkpointable_name="meta")
    context = ocp.Context()
    context.checkpointables.registry = handlers
    context.pytree.loading.partial_load = True
    with context:
        with _readable(run, folder):
            sums.check(folder, "meta")
            record = ocp.load_checkpointables(folder, {"meta": None})["meta"]
            leaves, meta = record["leaves"], record["meta"]
        checkpoint.require_same(leaves, template, at, part=True)
        with _readable(run, folder):
            sums.check(folder, "state")
            found = ocp.load_checkpointables(folder, {"state": template})["state"]
    return found, meta


@contextlib.contextmanager
def _readable(run: Path, folder: Path):
    """Whatever fails in reading a checkpoint says which one it is, and why."""
    try:
        yield
    except Exception as error:  # of the disk, or of any library that reads from it
        reason = f"is damaged ({type(error).__name__}: {error!s:.300})"
        if not folder.is_dir():
            reason = "is gone: a run keeps its last and its best (checkpoint.keep_last)"
        raise ValueError(
            f"checkpoint {folder.name} of {run} {reason}; another may be taken with "
            "--checkpoint"
        ) from error


def train_state(run: Path, at: int, fresh: step.TrainState, *, optimizer: bool):
    """``fresh`` with the parameters of another run and, if asked, its optimizer.

    Steps are counted from 0 again, by the learning rate's schedule, too.
    """
    wanted = {"train": {"params": fresh.params}}
    if optimizer:
        wanted["train"]["opt_state"] = fresh.opt_state
    found = read(run, at, wanted)[0]["train"]
    as_ours = lambda new, old: jax.device_put(new, old.sharding)
    params = jax.tree.map(as_ours, found["params"], fresh.params)
    if not optimizer:
        return fresh._replace(params=params)
    begins = optax.ScaleByScheduleState, transforms.Projection
    anew = lambda x: isinstance(x, begins)
    moments = jax.tree.map(
        lambda new, old: old if anew(old) else as_ours(new, old),
        found["opt_state"],
        fresh.opt_state,
        is_leaf=anew,
    )
    return fresh._replace(params=params, opt_state=moments)


def export(run: Path, at: int, out: Path) -> None:
    """Writes the student of checkpoint ``at`` as a Hugging Face directory.

    Raises:
      ValueError: see ``read``; ``run`` is not the folder of a run.
    """
    student = workdir.read_config(run)["student"]
    source = inputs.model_path(student["path"])
    shape, base = hf.load_config(source), None
    if student.get("lora", {}).get("rank"):  # runs of earlier releases have no such key
        shape = lora.adapted(shape, **student["lora"])
        base = jax.device_put(hf.load(source)[1])
    start = decoder.init if base is None else lora.start
    params = jax.eval_shape(lambda: start(shape, jax.random.key(0)))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), params
    )
    found, record = read(run, at, {"train": {"params": params}})
    ends = record.get("stop_ids", ())
    shape, params = lora.merged(shape, lora.joined(found["train"]["params"], base))
    config = workdir.read_config(run)
    config["export"] = {}  # whatever the run itself exports: this is merged
    written = card_of(config, facts_of(run, at, record))
    hf.save(out, shape, params, source=source, ends=ends, card=written)


def facts_of(run: Path, at: int, record: dict) -> card.Facts:
    """What a card says of step ``at``: of the run, and its evaluations so far."""
    about = record.get("about", {})
    known = {name: about[name] for name in card.Facts._fields if name in about}
    known["before"] = record.get("before") or {}
    file = run / "summary.json"
    if file.exists():  # else it is under way
        try:
            summary = json.loads(file.read_text())
            known |= {"after": summary["after"], "after_step": summary["steps"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            console.warn(
                f"{file} is damaged ({type(error).__name__}: {error}); the model card "
                "has no numbers from after the run"
            )
    return card.Facts(at, **known)


def card_of(config: dict, facts: card.Facts) -> str:
    """The card of an export of a run with this config."""
    path = config["student"]["path"]
    folder = files.whole(inputs.model_path(path))
    local = Path(inputs.model_path(path)).is_dir()
    base = card.Base(path, "" if local else hub.split(path)[0], card.licence_of(folder))
    return card.text(config, base, facts, files.MARK)


def other_card(out: Path) -> list[str]:
    """A line where the card of an export is not its ``README.md``."""
    if not (out / files.OTHER_CARD).is_file():
        return []
    return [
        f"{out / files.CARD} was not written by jopd and stays; the card of this "
        f"export is {files.OTHER_CARD} beside it"
    ]


@contextlib.contextmanager
def as_model(path: str, which: str):
    """The path of a model directory: ``path``, or a checkpoint of the run there.

    Raises:
      ValueError: ``path`` is a run's folder and nothing says which checkpoint.
    """
    if not which:
        if Path(path, "checkpoints").is_dir():
            raise ValueError(
                f"{path} is the folder of a run; add --checkpoint=best, last or a "
                f"step, or give {path}/export"
            )
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jopd.") as folder:
        export(Path(path), pick(Path(path), which), Path(folder, "model"))
        yield str(Path(folder, "model"))
