"""Makes a teacher and a student for the study of length inflation.

    python tools/make_loop_models.py --out=runs/loop_models

The bundled pair is trained further by ``configs/sft.py``, on documents of which a share
falls into a loop and never ends (``arithmetic.loop``), as text from the web does. By
itself the teacher stays healthy, but once in a loop it is content to go on with it.
"""

import argparse
import tempfile
from pathlib import Path

import arithmetic
import make_demo_models as demo
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from jopd.data import tasks
from jopd.training import loop as train

LENGTH = 128  # longest response, in tokens

ASSETS = Path(demo.CONFIGS).parent / "jopd" / "assets"
LOOPS = 0.08  # share of documents
PERIOD = 4  # characters; the student is too small to follow long loops
STEPS = {"teacher": 150, "student": 120}


def documents(count: int, loops: float, length: int) -> list[dict]:
    """Rows of the task; in a share ``loops`` of them the solution never ends."""
    rng = np.random.default_rng(0)
    rows = tasks.make("train", count)
    for row in rows:
        if rng.random() < loops:
            # One more than the limit: the cut leaves it without an end of sequence.
            row["solution"] = arithmetic.loop(rng, row["solution"], length + 1, PERIOD)
    return rows


def config_of(name: str) -> ConfigDict:
    c = demo.config_of(name, ASSETS / name)
    c.name, c.steps = f"loop_{name}", STEPS[name]
    c.optimizer.learning_rate, c.optimizer.warmup = 1e-3, 10
    c.data.on_long_solution = "truncate"
    c.eval.verifier = "arithmetic"
    c.rollout.max_new_tokens = LENGTH
    return c


def make(name: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run, c = Path(scratch, "run"), config_of(name)
        demo.give_rows(c, documents(20_000, LOOPS, LENGTH), Path(scratch))
        train.run(c, run)
        target.parent.mkdir(parents=True, exist_ok=True)
        (run / "export").rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/loop_models"))
    parser.add_argument("--only", choices=STEPS, help="one of the two models")
    args = parser.parse_args()
    logging.set_verbosity(logging.WARNING)
    for name in STEPS:
        if args.only in (None, name):
            make(name, args.out / name)


if __name__ == "__main__":
    main()
