"""Makes the bundled teacher and student of the arithmetic task, with this library.

    python tools/make_demo_models.py --out=jopd/assets

Both start from random weights and are trained by ``configs/sft.py``: the teacher until
it solves the task, the student only until it begins to. A student far from the teacher:

    python tools/make_demo_models.py --only=student --steps=100 --out=runs/far_models
"""

import json
import runpy
import tempfile
from pathlib import Path

import arithmetic
import jax
from absl import app, flags, logging

from jopd.models import decoder, hf
from jopd.training import loop as train

_OUT = flags.DEFINE_string("out", "jopd/assets", "Directory of the two models.")
_ONLY = flags.DEFINE_string("only", "", "teacher or student; empty: both.")
_STEPS = flags.DEFINE_integer("steps", 0, "Updates; 0: those of the recipe.")

CONFIGS = Path(__file__).parents[1] / "configs"
SHAPES = {
    "teacher": dict(width=128, layers=4, heads=4, kv_heads=2, head_dim=32, ffn=320),
    "student": dict(width=64, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=160),
}
RECIPES = {
    "teacher": dict(steps=800, learning_rate=3e-3, prompts=16, size=40_000),
    "student": dict(steps=550, learning_rate=3e-3, prompts=16, size=20_000),
}


def start(directory: Path, name: str) -> None:
    """A randomly initialised model directory with the task's tokenizer."""
    tokenizer = arithmetic.build_tokenizer()
    shape = decoder.DecoderConfig(
        vocab_size=len(tokenizer), max_positions=256, tied=True, **SHAPES[name]
    )
    params = decoder.init(shape, jax.random.key(0))
    hf.save(directory, shape, params, tokenizer=tokenizer)


def config_of(name: str, path: Path, steps: int = 0):
    """``configs/sft.py`` with the recipe of one of the two models."""
    recipe = RECIPES[name] | ({"steps": steps} if steps else {})
    c = runpy.run_path(str(CONFIGS / "sft.py"))["get_config"]()
    c.name = f"demo_{name}"
    c.steps = recipe["steps"]
    c.student.path = str(path)
    c.teacher.path = ""
    c.data.size = recipe["size"]
    c.rollout.prompts_per_step = recipe["prompts"]
    c.optimizer.learning_rate = recipe["learning_rate"]
    c.optimizer.schedule, c.optimizer.warmup = "cosine", recipe["steps"] // 20
    c.optimizer.b2 = 0.98
    c.log.every_steps = 20
    c.checkpoint.every_steps = 0
    return c


def give_rows(c, rows: list[dict], folder: Path) -> None:
    """Trains ``c`` on rows of one's own, all but the last 256, which it holds out."""
    for key, part in (("path", rows[:-256]), ("eval_path", rows[-256:])):
        file = folder / f"{key}.jsonl"
        file.write_text("\n".join(map(json.dumps, part)))
        c.data[key] = str(file)


def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    for name in ("teacher", "student"):
        if _ONLY.value not in ("", name):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            begin, run = Path(scratch, "start"), Path(scratch, "run")
            start(begin, name)
            train.run(config_of(name, begin, _STEPS.value), run)
            target = Path(_OUT.value, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            (run / "export").rename(target)


if __name__ == "__main__":
    app.run(main)
