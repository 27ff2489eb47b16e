"""Makes the bundled models of both tasks, with this library.

    python tools/make_demo_models.py --out=runs/models
    python tools/make_demo_models.py --out=runs/models --only=words_student

They are what lies in ``jopd/assets``. All but ``words_brief``, which goes on from the
``words_teacher`` of the same folder, start from random weights; ``configs/sft.py``
trains teachers until they solve their task, students only until they begin to. A
student far from its teacher:

    python tools/make_demo_models.py --only=student --steps=100 --out=runs/far_models
"""

import json
import runpy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import arithmetic
import jax
import stories
from absl import app, flags, logging

from jopd.models import decoder, hf
from jopd.training import loop as train

_OUT = flags.DEFINE_string("out", "runs/models", "Folder that has none of them.")
_ONLY = flags.DEFINE_string("only", "", "One of MODELS; empty: all.")
_STEPS = flags.DEFINE_integer("steps", 0, "Updates; 0: those of the recipe.")

CONFIGS = Path(__file__).parents[1] / "configs"


class Recipe(NamedTuple):
    """How a model is made.

    ``data`` is a task or a function that gives rows, ``shape`` that of a new model or
    the name of one to go on from, ``rows`` the problems drawn for training, ``levels``
    the only ones that it sees. Half precision on disk suffices where it is not the pair
    of the main job.
    """

    data: str | Callable[[int], list[dict]]
    shape: dict[str, int] | str
    steps: int
    rows: int
    learning_rate: float = 3e-3
    levels: tuple[int, ...] = ()
    dtype: str = "float16"


SMALL = dict(width=64, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=160)
LARGE = dict(width=128, layers=4, heads=4, kv_heads=2, head_dim=32, ffn=320)
MIDDLE = dict(width=96, layers=4, heads=4, kv_heads=2, head_dim=24, ffn=256)
MODELS = {
    "teacher": Recipe("task:arithmetic", LARGE, 800, 40_000, dtype="float32"),
    "student": Recipe("task:arithmetic", SMALL, 550, 20_000, dtype="float32"),
    "early": Recipe("task:arithmetic", SMALL, 350, 20_000),
    "words_teacher": Recipe("task:words", LARGE, 1000, 40_000),
    "words_student": Recipe("task:words", SMALL, 600, 20_000),
    "words_brief": Recipe(stories.brief, "words_teacher", 800, 40_000, 2e-3),
    "words_short": Recipe("task:words", MIDDLE, 600, 40_000, levels=(2, 3)),
    "words_hinted": Recipe(stories.hinted, MIDDLE, 800, 60_000),
}


def start(directory: Path, recipe: Recipe) -> None:
    """A model directory with random weights and the tokenizer of its task."""
    digits = recipe.data == "task:arithmetic"
    tokenizer = (arithmetic if digits else stories).build_tokenizer()
    shape = decoder.DecoderConfig(
        vocab_size=len(tokenizer),
        max_positions=256 if digits else 512,
        tied=True,
        **recipe.shape,
    )
    params = decoder.init(shape, jax.random.key(0))
    params = jax.tree.map(lambda x: x.astype(recipe.dtype), params)
    hf.save(directory, shape, params, tokenizer=tokenizer)


def config_of(name: str, path: Path, steps: int = 0):
    """``configs/sft.py`` with the recipe of one of the models."""
    recipe = MODELS[name]
    c = runpy.run_path(str(CONFIGS / "sft.py"))["get_config"]()
    c.name = f"demo_{name}"
    c.steps = steps or recipe.steps
    c.student.path = str(path)
    c.teacher.path = ""
    c.data.size, c.data.levels = recipe.rows, recipe.levels
    c.rollout.prompts_per_step = 16  # times a group of 4: 64 rows per update
    c.optimizer.learning_rate = recipe.learning_rate
    c.optimizer.schedule, c.optimizer.warmup = "cosine", c.steps // 20
    c.optimizer.b2 = 0.98
    c.log.every_steps, c.log.token_facts = 20, False
    c.checkpoint.every_steps = 0
    return c


def give_rows(c, rows: list[dict], folder: Path) -> None:
    """Trains ``c`` on rows of one's own, all but the last 256, which it holds out."""
    for key, part in (("path", rows[:-256]), ("eval_path", rows[-256:])):
        file = folder / f"{key}.jsonl"
        file.write_text("\n".join(map(json.dumps, part)))
        c.data[key] = str(file)


def make(name: str, out: Path, steps: int) -> None:
    """Trains one of the models and puts it into ``out``."""
    recipe = MODELS[name]
    if (out / name).exists():
        raise SystemExit(f"{out / name} is there; name another folder with --out")
    with tempfile.TemporaryDirectory() as scratch:
        begin, run = Path(scratch, "start"), Path(scratch, "run")
        if isinstance(recipe.shape, str):
            begin = out / recipe.shape
        else:
            start(begin, recipe)
        c = config_of(name, begin, steps)
        if isinstance(recipe.data, str):
            c.data.path = recipe.data
        else:
            give_rows(c, recipe.data(recipe.rows), Path(scratch))
            c.eval.verifier = "numeric"  # some stories contradict their hints
        train.run(c, run)
        out.mkdir(parents=True, exist_ok=True)
        (run / "export").rename(out / name)


def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    for name in [_ONLY.value] if _ONLY.value else MODELS:
        make(name, Path(_OUT.value), _STEPS.value)


if __name__ == "__main__":
    app.run(main)
