"""Which log-probabilities differ between batches, blocks, places and the trainer?

    python tools/bench/bits.py --model=DIR --new=48 --type=bfloat16 --exact

A model continues random prompts, eight at once. Printed is how many of the tokens'
log-probabilities are other numbers where the same rows are drawn in another way, or
recomputed by the trainer, with their largest difference in nats; a row counts up to
where its tokens begin to differ. And seconds of drawing, scoring and a gradient, the
best of two, compiled before.
"""

import argparse
import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from jopd.batches import asking, layout
from jopd.losses import objective
from jopd.losses.objective import Shape, Term, Weighed
from jopd.losses.signals import nll
from jopd.models import attention, decoder, hf
from jopd.rollouts import blocks
from jopd.rollouts import generate as rollouts
from jopd.setup import inputs
from jopd.training import step

ROWS, WIDTH = 8, 48


def timed(function, *args):
    """What it returns, and the seconds of the better of two calls."""
    seconds = []
    for _ in range(2):
        jax.block_until_ready(function(*args))
        start = time.perf_counter()
        found = jax.block_until_ready(function(*args))
        seconds.append(time.perf_counter() - start)
    return jax.device_get(found), min(seconds)


def differ(logp_BT, other_BT, mask_BT) -> str:
    gap_N = np.abs(np.asarray(logp_BT) - np.asarray(other_BT))[mask_BT]
    largest = gap_N.max(initial=0)
    return f"{int((gap_N > 0).sum())} of {len(gap_N)} | {largest:.1e}"


def until_other(tokens_BT, other_BT):
    """True up to the first token of each row that is another one."""
    return np.cumsum(np.asarray(tokens_BT) != np.asarray(other_BT), axis=1) == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo:teacher", help="as student.path")
    parser.add_argument("--type", default="float32", help="float32 | bfloat16")
    parser.add_argument("--new", default=48, type=int, help="new tokens at most")
    parser.add_argument("--exact", action="store_true", help="as student.exact")
    args = parser.parse_args()
    shape, params = hf.load(inputs.model_path(args.model))
    shape = dataclasses.replace(shape, dtype=args.type, exact=args.exact, remat=True)
    model, vocabulary = decoder.Decoder(shape), shape.vocab_size
    rng = np.random.default_rng(0)
    tokens_BP = rng.integers(0, vocabulary, (ROWS, WIDTH))
    length_B = np.linspace(WIDTH // 4, WIDTH, ROWS).astype(np.int32)
    limit_B = rng.integers(args.new // 8, args.new // 2, ROWS)
    limit_B[0] = args.new
    draw = dict(model=model, max_new_tokens=args.new, stop_ids=())
    draw |= dict(vocabulary=vocabulary)
    key = jax.random.key(1)

    def asked(rows):
        some = tokens_BP[rows], length_B[rows]
        return rollouts.request(*some, limit=limit_B[rows], row_B=rows)

    every = np.arange(ROWS)
    write = jax.jit(functools.partial(rollouts.generate, **draw))
    drawn, seconds = timed(write, params, asked(every), key)
    batch = asking.batch_of(jax.tree.map(jnp.asarray, drawn))
    mask_BT, logp_BT = np.asarray(batch.mask_BT), drawn.behavior_logp_BT
    print(f"drawn, {ROWS} rows: {mask_BT.sum() / seconds:.1f} tokens/s\n")
    print("| the same rows | other log-probabilities | largest |\n|---|---|---|")

    def say(what, found, rows=every):
        same = until_other(found.tokens_BT, drawn.tokens_BT[rows]) & mask_BT[rows]
        said = differ(found.behavior_logp_BT, logp_BT[rows], same)
        print(f"| {what} | {said} |", flush=True)

    for rows in (np.array([3]), np.array([6, 1, 4])):
        say(f"{len(rows)} at once", write(params, asked(rows), key), rows)
    in_blocks = blocks.in_blocks(block=16, at_once=4, devices=1, **draw)
    say("in blocks of 16, 4 places", in_blocks(params, asked(every), key))

    start = attention.KEYS if args.exact else 1
    widest = 3 * (WIDTH + args.new)
    packed = layout.with_packing(batch, (widest,), 1, start=start)
    bins = len(packed.packing[""].segment_SRW[0]) if packed.packing else ROWS
    for what, rows, chunk in (
        ("trainer", batch, 256),
        ("trainer, chunks of 100", batch, 100),
        (f"trainer, {bins} packed bins", packed, 256),
    ):
        cut = Shape(vocabulary, chunk, exact=args.exact)
        replay = step.make_replay_logp(model, rollouts.PLAIN, cut)
        found, seconds = timed(replay, params, rows)
        print(f"| {what} | {differ(found, logp_BT, mask_BT)} |", flush=True)
    print(f"\nscored: {seconds:.2f} s")

    def loss(params):
        weighed = {"nll": Weighed(batch.mask_BT / mask_BT.sum(), None)}
        return objective.objective(
            step.hidden_states(model, params, packed),
            decoder.head(params),
            *({}, {}, packed, weighed, {"nll": 1.0}),
            terms=(Term("nll", nll),),
            with_facts=False,
            **cut._asdict(),
        )[0]

    print(f"gradient: {timed(jax.jit(jax.grad(loss)), params)[1]:.2f} s")


if __name__ == "__main__":
    main()
