"""Exact divergences of two wide heads: value and gradient, plain and in chunks.

    python tools/bench/divergence.py --tokens=4096 --chunks 0 256 --strip=4

Hidden states of a student and a teacher, their heads, one divergence averaged over the
tokens, and its gradient with respect to the student's hidden states and head: what an
update does besides running the models. Chunk 0 is the plain form with whole logits;
strip 0 leaves chunks whole.
Every line is a process of its own, since peak memory never falls.
"""

import argparse
import json
import resource
import subprocess
import sys
import time


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--signals", nargs="+", default=["reverse_kl"])
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 256])
    parser.add_argument("--strip", type=int, default=4, help="objective.strip_tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(args) -> dict:
    """Seconds (the fastest of some) and memory of one form, in this process."""
    import jax
    import jax.numpy as jnp

    from jopd.losses import chunks, signals
    from jopd.types import Outputs

    signal = getattr(signals, args.signals[0])
    keys = jax.random.split(jax.random.key(0), 4)
    draw = lambda key, rows: 0.3 * jax.random.normal(key, (rows, args.width))
    hidden, head = draw(keys[0], args.tokens)[None], draw(keys[1], args.vocab)
    other, other_head = draw(keys[2], args.tokens)[None], draw(keys[3], args.vocab)
    tokens = jnp.zeros(hidden.shape[:2], jnp.int32)

    def of_strip(logits, rest, coef):
        other_logits, tokens = rest
        rows = {"student": logits, "teacher": jax.lax.stop_gradient(other_logits)}
        value = coef * signal(Outputs(rows, tokens, None))
        return jnp.sum(value), value

    def of_chunk(hidden, head, rows, other_head, coef):
        other, tokens = rows
        rest = other @ other_head.T, tokens
        if not args.strip:
            return of_strip(hidden @ head.T, rest, coef)
        return chunks.sum_over_strips(of_strip, args.strip, hidden @ head.T, rest, coef)

    def loss(hidden, head, other, other_head):
        rest = ((other, tokens), jnp.ones_like(tokens, bool), other_head)
        coef = 1.0 / args.tokens
        if args.chunks[0]:
            return chunks.sum_over_chunks(
                of_chunk, args.chunks[0], 1, hidden, head, *rest, coef
            )
        rest = other[0] @ other_head.T, tokens[0]
        return of_strip(hidden[0] @ head.T, rest, coef)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    given = (hidden, head, other, other_head)
    jax.block_until_ready(given)
    before = peak_gib()
    compiled = run.lower(*given).compile()
    seconds = []
    for _ in range(args.repeats):
        began = time.perf_counter()
        (value, _), _ = jax.block_until_ready(compiled(*given))
        seconds.append(time.perf_counter() - began)
    return {
        "signal": args.signals[0],
        "chunk": args.chunks[0],
        "value": float(value),
        "seconds": min(seconds),
        "above_base_gib": peak_gib() - before,
        "temporary_gib": compiled.memory_analysis().temp_size_in_bytes / 2**30,
    }


def main() -> None:
    args = parse_arguments()
    if args.one:
        print(json.dumps(measure(args)))
        return
    print("| divergence | chunk | seconds | GiB above base | GiB of temporaries |")
    print("|---|---|---|---|---|")
    for signal in args.signals:
        for chunk in args.chunks:
            words = [sys.executable, __file__, "--one", f"--signals={signal}"]
            words += [f"--chunks={chunk}", f"--tokens={args.tokens}"]
            words += [f"--vocab={args.vocab}", f"--width={args.width}"]
            words += [f"--repeats={args.repeats}", f"--strip={args.strip}"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            found = json.loads(done.stdout.splitlines()[-1])
            cells = (signal, chunk or "whole", f"{found['seconds']:.2f}")
            cells += (f"{found['above_base_gib']:.2f}", f"{found['temporary_gib']:.2f}")
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
