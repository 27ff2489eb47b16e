"""What a run was made of, apart from its config: rows, templates, weights, as hashes.

``inputs.json`` keeps them, so that a run that goes on does so with the same.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import numpy as np

from jopd.data.dataset import Dataset
from jopd.models import hf
from jopd.models.decoder import DecoderConfig
from jopd.setup import adapter, inputs
from jopd.setup.experiment import Experiment
from jopd.teachers import likely, served
from jopd.training import sums, workdir

NAME = "inputs.json"
TOKENS, ENDS = FOLLOWING = ("tokens of the rows", "ends of responses")
SHOWN = 12  # characters of a hash in an error
ANSWERS = "log-probabilities of a probe text by the server of "


def check(directory: Path, now: dict[str, str]) -> None:
    """Whether a run with updates was made of what there is ``now``.

    Raises:
      ValueError: names what changed, and how to go on.
    """
    path = directory / NAME
    if not sums.steps_in(directory / "checkpoints") or not path.exists():
        return
    differ = changed(_read(path), now)
    if differ:
        raise ValueError(
            f"workdir {directory} was begun with other inputs: {'; '.join(differ)}. "
            "Put back what was there, or start anew with --workdir=DIR"
        )


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or not all(
            isinstance(fact, str) for fact in found.values()
        ):
            raise ValueError("it holds no names and hashes")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Remove it to go on without knowing that "
            "rows and models are those of the start"
        ) from error


def keep(directory: Path, now: dict[str, str]) -> None:
    """From here on the run is one of these inputs."""
    workdir.write_json(directory / NAME, now)


def changed(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """What differs, in words; what follows from others only where none of them does."""
    differ = [name for name in before if not _same(name, before[name], now.get(name))]
    causes = [name for name in differ if not name.startswith(FOLLOWING)]
    differ = causes or differ
    return [
        f"{name} had {_short(before[name])} and has {_short(now.get(name, 'nothing'))}"
        for name in differ
    ]


def _same(name: str, before: str, now: str | None) -> bool:
    if now is None or not name.startswith(ANSWERS):
        return before == now
    return likely.alike(*(np.array(side.split(), float) for side in (before, now)))


def _short(fact: str) -> str:
    kept, mark, digest = " ".join(fact.split()).rpartition("sha256 ")
    return f"{kept:.80}{mark}{digest[:SHOWN]}" if mark else f"{digest:.80}"


def found(e: Experiment) -> dict[str, str]:
    """What there is now, by name."""
    tokenizer, rows = e.rows.tokenizer, e.rows
    others = {
        name: inputs.model_path(path)
        for name, path in _own(e).items()
        if path != e.config.student.path and inputs.has_tokenizer(path)
    }
    return rows.digests | {
        "the tokenizer": inputs.rules_of(tokenizer),
        "the chat template": _sha(str(tokenizer.chat_template).encode()),
        TOKENS: _tokens(rows.train, rows.held),
        ENDS: f"{sorted(e.stop_ids)}",
        **{
            f"the tokenizer of {name}": inputs.rules_of(inputs.load_tokenizer(path))
            for name, path in others.items()
        },
        **{
            f"{TOKENS} as {name} reads them": _tokens(*data)
            for name, data in rows.own_prompts.items()
        },
        **_weights(e),
        **_files(e),
        **{f"{ANSWERS}{name}": answers(client) for name, client in e.served.items()},
        **{
            f"the scores of {name}": _sha(
                *(
                    key.encode() + b"".join(leaf.tobytes() for leaf in scores)
                    for key, scores in sorted(table.rows.items())
                )
            )
            for name, table in e.stored.items()
        },
    }


def _tokens(*parts: Dataset) -> str:
    """Of the prompts and solutions of several sets of rows."""
    tokens = (
        row
        for data in parts
        for row in (*data.prompts, *(s for s in data.solutions if s is not None))
    )
    return _sha(*(np.append(row, -1).tobytes() for row in tokens))


def answers(client: served.Client) -> str:
    """What a server says of a text that all are asked about, in nats a token."""
    return " ".join(f"{logp:.2f}" for logp in client.probe)


def _own(e: Experiment) -> dict[str, str]:
    """Teachers with weights of their own, and where these are."""
    return {name: t.path for name, t in e.teachers.items() if t.weights == "path"}


def _weights(e: Experiment) -> dict[str, str]:
    """Of every model with weights of its own."""
    paths = {"student": e.config.student.path}
    own = _own(e)
    known: dict[str, str] = {}
    for path in map(inputs.model_path, (paths | own).values()):
        if path not in known:
            known[path] = of_model(path)
    found = {
        f"the model {name}": known[inputs.model_path(path)]
        for name, path in (paths | own).items()
    }
    if e.config.student.adapter:
        begun = jax.tree.leaves(adapter.read(e.config).params)
        found["the adapter"] = _sha(*(leaf.tobytes() for leaf in begun))
    return found


def _files(e: Experiment) -> dict[str, str]:
    """Of files that signals of terms were given."""
    found = {}
    for term in e.terms:
        for key, value in getattr(term.signal, "keywords", {}).items():
            file = Path(value).expanduser() if isinstance(value, str) else Path()
            if file.is_file():
                found[f"the file loss.{term.name}.{key}"] = _sha(file.read_bytes())
    return found


def of_model(path: str) -> str:
    """Of the weights in a model directory, and of what they are read as.

    Of what is not as usual there: a field that a later release adds changes no hash.
    """
    shape, usual = hf.load_config(path), dataclasses.fields(DecoderConfig)
    own = [(f.name, getattr(shape, f.name)) for f in usual]
    own = [pair for pair, f in zip(own, usual) if pair[1] != f.default]
    return _sha(repr(own).encode(), hf.file_hash(path).encode())


def _sha(*pieces: bytes) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return f"sha256 {digest.hexdigest()}"
