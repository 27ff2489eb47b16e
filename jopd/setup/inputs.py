"""From a config to model directories, tokenizers and servers, each checked."""

import copy
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from jopd.data import pieces, vocabulary
from jopd.models import files, hf, peft
from jopd.teachers import remote, roles, served, spans

ASSETS = Path(__file__).parents[1] / "assets"
DEMO = "demo:"


def load_tokenizer(path: str):
    """That of a model directory or hub id, or of an adapter's base if it has none."""
    folder = files.directory(path, ["*.json", *files.TOKENIZERS])
    return files.tokenizer(str(peft.with_tokenizer(folder)))


def templated_as(tokenizer, path: str):
    """``tokenizer`` with the chat template of another model.

    Raises:
      ValueError: the other has none.
    """
    theirs = load_tokenizer(model_path(path)).chat_template
    if theirs is None:
        raise ValueError(
            f"{path} has no chat template of its own; a teacher there reads the "
            "student's with template='student'"
        )
    found = copy.deepcopy(tokenizer)
    found.chat_template = theirs
    return found


def rules_of(tokenizer) -> str:
    """A hash of all that decides into which tokens a text is cut."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    rules = core.to_str() if core else json.dumps(tokenizer.get_vocab())
    return f"sha256 {hashlib.sha256(rules.encode()).hexdigest()}"


def model_path(path: str) -> str:
    """``demo:student`` and ``demo:teacher`` are the bundled pair; else ``path``."""
    if path.startswith(DEMO):
        return str(ASSETS / path.removeprefix(DEMO))
    return os.path.expanduser(path)


def speech(path: str) -> spans.Speech:
    """The tokenizer of a model as bytes; made once for each model.

    Raises:
      ValueError: see ``pieces.token_bytes``.
    """
    return _speech(model_path(path))


@functools.lru_cache(maxsize=4)
def _speech(path: str) -> spans.Speech:
    tokenizer = load_tokenizer(path)
    known = pieces.token_bytes(tokenizer)
    return spans.Speech(tokenizer, known, pieces.leads(tokenizer, known))


def has_tokenizer(path: str) -> bool:
    """Whether a local model directory carries its own tokenizer."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    return not os.path.isdir(path) or any(Path(path, n).exists() for n in names)


def check_tokenizers(
    tokenizer, paths: dict[str, str], rows: int
) -> tuple[list[str], dict[str, dict[int, int]], set[int]]:
    """Every other model's tokenizer against the student's.

    Returns:
      Warnings; by path the ids that a model has elsewhere (`vocabulary.pairing`, below
      ``rows``), where there are any; and the others' EOS, in student ids.
    """
    notes, pairs, eos = [], {}, set()
    for name, path in paths.items():
        if name == "student" or path == paths["student"] or not has_tokenizer(path):
            continue
        other = load_tokenizer(path)
        try:
            notes += vocabulary.compare_tokenizers(tokenizer, other, rows)
        except ValueError as error:
            raise ValueError(f"{error}{_left_out(paths, name)}") from error
        if found := vocabulary.pairing(tokenizer, other, rows):
            pairs[path] = found
        ours = {there: here for here, there in found.items()}
        eos.add(ours.get(other.eos_token_id, other.eos_token_id))
    return notes, pairs, eos & set(tokenizer.get_vocab().values())


def _left_out(paths: dict[str, str], name: str) -> str:
    """What to do where only one of two models was named, and the other is bundled."""
    bundled = [who for who in ("student", name) if Path(paths[who]).parent == ASSETS]
    if len(bundled) != 1:
        return ""
    who = bundled[0]
    none = "" if who == "student" else f" (an evaluation may do without: {who}.path='')"
    return f"; the {who} is the bundled one, name yours with {who}.path{none}"


def shared_vocabulary(shapes, tokenizer) -> tuple[int, list[str]]:
    """Columns of logits kept in every model, and a note where that cuts one."""
    widths = {name: shape.vocab_size for name, shape in shapes.items()}
    shared = vocabulary.shared_vocab(widths["student"], min(widths.values()), tokenizer)
    cut = [f"{name} {width:,}" for name, width in widths.items() if width != shared]
    if not cut:
        return shared, []
    return shared, [f"heads cut to the {shared:,} shared columns ({', '.join(cut)})"]


def ends(
    tokenizer, paths: Iterable[str], pairs: Mapping[str, dict[int, int]] | None = None
) -> tuple[int, ...]:
    """Ids that end a response, for the tokenizer or a model (see ``hf.end_ids``).

    ``pairs`` are those of ``check_tokenizers``: a model's ends are said in student ids.
    """
    found = {tokenizer.eos_token_id}
    for path in paths:
        ours = {there: here for here, there in (pairs or {}).get(path, {}).items()}
        found |= {ours.get(index, index) for index in hf.end_ids(path)}
    return tuple(sorted(found - {None}))


def other_ends(tokenizer, own: set[int], found: set[int], turn_end) -> list[str]:
    """A warning where a response ends in ways that are not the student's own."""
    if found <= own:
        return []
    token = tokenizer.convert_ids_to_tokens
    named = lambda ids: ", ".join(f"{token(i)} ({i})" for i in sorted(ids))
    gold = tokenizer.eos_token_id if turn_end is None else turn_end
    return [
        f"the student ends at {named(own) or 'nothing'}, its chat template or a "
        f"teacher at {named(found - own)}: all of them end a response, and solutions "
        f"end in {named({gold} - {None}) or 'nothing'}; for other ends set "
        "rollout.stop_ids, and rollout.ignore_eos=True to be without these"
    ]


def connect(config) -> remote.Client:
    """The text-only teacher of ``config.remote``, asked whether it is there.

    Raises:
      ConnectionError, ValueError: it is not, or not as the config says.
    """
    c = config.remote
    more = dict(api=c.api, per_request=c.per_request, body=c.body.to_dict())
    return remote.connect(c.url, c.model, **more, **_way(config))


def connect_served(
    config, name: str, teacher: roles.Teacher, tokenizer
) -> served.Client:
    """A teacher behind a server of its own, asked by the way of ``config.remote``.

    Raises:
      ConnectionError, ValueError: as ``served.connect``.
    """
    more = dict(name=name, body=config.remote.body.to_dict(), top_k=teacher.top_k)
    more["chosen"] = teacher.support == "student"
    return served.connect(teacher.url, teacher.model, tokenizer, **more, **_way(config))


def _way(config) -> dict:
    """How servers are asked, see ``servers.reach``."""
    c = config.remote
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    way = {
        key: c[key]
        for key in (
            "key_env",
            "concurrency",
            "timeout_seconds",
            "retries",
            "token_budget",
        )
    }
    return way | {"cache_dir": c.cache_dir or os.path.join(base, "jopd", "remote")}
