"""Makes a teacher and a student for the study of length inflation.

    python tools/make_loop_models.py --out=runs/loop_models

Both are trained by ``configs/sft.py`` on the arithmetic task with a share of documents
that fall into a loop and never end (``tasks.loop``), as text from the web does. The
teacher is healthy by itself, but once it is in a loop it goes on with it; the student
is small and trained only until it begins to solve the task. Prints what both are like.
"""

import argparse
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

import make_demo_models as demo
from jopd import tasks, train
from jopd.models import decoder, hf

LENGTH = 128  # longest response, in tokens

SHAPES = {
    "teacher": demo.SHAPES["teacher"],
    "student": dict(width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn=96),
}
RECIPES = {
    "teacher": dict(steps=1_000, loops=0.08),
    "student": dict(steps=700, loops=0.08),
}


def documents(count: int, loops: float, length: int) -> list[dict]:
    """Rows of the task; in a share ``loops`` of them the solution never ends."""
    rng = np.random.default_rng(0)
    rows = tasks.make("train", count)
    for row in rows:
        if rng.random() < loops:
            # One more than the limit: the cut leaves it without an end of sequence.
            row["solution"] = tasks.loop(rng, row["solution"], length + 1)
    return rows


def start(directory: Path, name: str) -> None:
    tokenizer = tasks.build_tokenizer()
    shape = decoder.DecoderConfig(
        vocab_size=len(tokenizer), max_positions=512, tied=True, **SHAPES[name]
    )
    params = decoder.init(shape, jax.random.key(0))
    hf.save(directory, shape, params, tokenizer=tokenizer)


def config_of(name: str, model: Path, data: Path) -> ConfigDict:
    c = demo.config_of(name, model)
    c.name = f"loop_{name}"
    c.steps = RECIPES[name]["steps"]
    c.optimizer.warmup_steps = c.steps // 20
    c.data.path, c.data.on_long_solution = str(data), "truncate"
    c.eval.verifier = "arithmetic"
    c.rollout.max_new_tokens = LENGTH
    return c


def make(name: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        begin, run = Path(scratch, "start"), Path(scratch, "run")
        data = Path(scratch, "train.jsonl")
        rows = documents(20_000, RECIPES[name]["loops"], LENGTH)
        data.write_text("\n".join(map(json.dumps, rows)))
        start(begin, name)
        train.run(config_of(name, begin, data), run)
        target.parent.mkdir(parents=True, exist_ok=True)
        (run / "export").rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/loop_models"))
    parser.add_argument("--only", choices=RECIPES, help="one of the two models")
    args = parser.parse_args()
    logging.set_verbosity(logging.WARNING)
    for name in RECIPES:
        if args.only in (None, name):
            make(name, args.out / name)


if __name__ == "__main__":
    main()
