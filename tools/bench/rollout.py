"""Tokens per second of sampling, by how the lengths of the rows are drawn.

    python tools/make_random_model.py out/student --vocab-size=8192
    python tools/bench/rollout.py --model=out/student --rows=64 --new=1024

One line for rows with lengths drawn evenly between ``--shortest`` and ``--new``, one
for rows that all have the mean length, one for rows that all have the greatest; each in
one loop and in blocks (``rollouts.blocks``), and with ``--at-once`` in so many places
that are filled again. Nothing but the limit ends a row.
"""

import argparse
import functools
import time

import machine


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="Hugging Face directory")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=1024)
    parser.add_argument("--shortest", type=int, default=64)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--at-once", type=int, default=0, help="rows of a device")
    parser.add_argument("--ways", nargs="+", help="of those in the table; empty: all")
    parser.add_argument("--repeats", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    import jax
    import numpy as np

    from jopd.models import decoder, hf, sharding
    from jopd.rollouts import blocks as engine
    from jopd.rollouts import generate as rollout

    config, params = hf.load(args.model, dtype="float32")
    devices = jax.local_device_count()
    whole = sharding.replicated(sharding.make_mesh())
    params = jax.device_put(params, whole)
    settings = dict(
        model=decoder.Decoder(config),
        max_new_tokens=args.new,
        stop_ids=(),
        vocabulary=config.vocab_size,
        filters=rollout.PLAIN,
    )
    blocks = functools.partial(
        engine.in_blocks, block=args.block, devices=devices, **settings
    )
    ways = {
        "one loop": sharding.data_parallel(
            functools.partial(rollout.generate, **settings), devices
        ),
        "blocks": blocks(),
    }
    if args.at_once:
        ways[f"blocks, {args.at_once} at once"] = blocks(at_once=args.at_once)
    ways = {name: ways[name] for name in args.ways or ways}
    rng = np.random.default_rng(0)
    drawn_B = rng.integers(args.shortest, args.new + 1, args.rows).astype(np.int32)
    tokens_BP = rng.integers(0, config.vocab_size, (args.rows, args.prompt))
    asked = rollout.request(tokens_BP, np.full(args.rows, args.prompt), limit=0)
    cases = {
        f"{args.shortest} to {args.new}": drawn_B,
        f"all {round(drawn_B.mean())}": np.full_like(drawn_B, round(drawn_B.mean())),
        f"all {args.new}": np.full_like(drawn_B, args.new),
    }
    sizes, rates = machine.Sizes.of(config), machine.rates()
    print(f"{rates.product / 1e9:.0f} GFLOP/s, {rates.copy / 1e9:.1f} GB/s\n")
    print("| lengths | way | tokens | seconds | tokens/s | share of the limit |")
    print("|---|---|---|---|---|---|")
    for case, limit_B in cases.items():
        least = machine.decode(sizes, rates, args.prompt, limit_B)
        for way, generate in ways.items():
            seconds = []
            for _ in range(args.repeats + 1):  # the first one compiles
                began = time.perf_counter()
                jax.device_get(
                    generate(params, asked._replace(limit_B=limit_B), jax.random.key(1))
                )
                seconds.append(time.perf_counter() - began)
            fastest, tokens = min(seconds[1:]), int(limit_B.sum())
            cells = (case, way, tokens, f"{fastest:.2f}", f"{tokens / fastest:,.0f}")
            cells += (f"{least / fastest:.0%}",)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
