"""What bfloat16 and eight-bit matrices cost in nats, against float32.

    python tools/bench/precision.py --model=demo:teacher
    python tools/bench/precision.py --model=DIR --data=prompts.jsonl --new=256

The model in float32 continues some prompts; on its responses, the next token's forward
KL from it to the same model in bfloat16, with ``teacher.quantize=int8``, and with both.
Beside it how far a sampler's log-probabilities are from those of a pass over the whole
sequence in the same type, which is what training compares them with.
"""

import argparse
import functools


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo:teacher", help="as teacher.path")
    parser.add_argument("--data", default="task:arithmetic", help="as data.path")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--new", type=int, default=64, help="tokens of a response")
    return parser.parse_args()


def read_prompts(args):
    """Padded prompts i32[B, P] and their lengths i32[B]."""
    import numpy as np

    from jopd.data import sources
    from jopd.setup import inputs

    tokenizer = inputs.load_tokenizer(inputs.model_path(args.model))
    rows = sources.read(args.data, split="train", count=args.rows)[: args.rows]
    ids = [tokenizer(_text(row.prompt))["input_ids"] for row in rows]
    tokens_BP = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for place, row in zip(tokens_BP, ids, strict=True):
        place[: len(row)] = row
    return tokens_BP, np.asarray([len(row) for row in ids]), tokenizer.eos_token_id


def _text(prompt) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def in_forms(path: str):
    """name -> (config, parameters) of one model in several types."""
    import dataclasses

    import jax

    from jopd.models import hf, quantize

    config, whole = hf.load(path, dtype="float32")
    eight, small = quantize.int8(config, whole)
    half = lambda shape: dataclasses.replace(shape, dtype="bfloat16")

    def cast(path, leaf):
        kept = leaf.dtype != "float32" or "_scale" in jax.tree_util.keystr(path)
        return leaf if kept else leaf.astype("bfloat16")

    to_half = functools.partial(jax.tree_util.tree_map_with_path, cast)
    return {
        "float32": (config, whole),
        "bfloat16": (half(config), to_half(whole)),
        "float32, int8": (eight, small),
        "bfloat16, int8": (half(eight), to_half(small)),
    }


def main() -> None:
    args = parse_arguments()
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jopd.losses import divergences, heads
    from jopd.models import decoder
    from jopd.rollouts import generate as rollout
    from jopd.setup import inputs

    tokens_BP, length_B, end = read_prompts(args)
    forms = in_forms(inputs.model_path(args.model))
    vocabulary = forms["float32"][0].vocab_size

    @functools.partial(jax.jit, static_argnums=0)
    def sample(config, params):
        asked = rollout.request(tokens_BP, length_B, limit=args.new)
        return rollout.generate(
            params, asked, jax.random.key(0), model=decoder.Decoder(config),
            max_new_tokens=args.new, stop_ids=(end,), vocabulary=vocabulary,
        )  # fmt: skip

    @functools.partial(jax.jit, static_argnums=0)
    def logits_of(config, params, tokens_BT, length_B):
        place_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        inside_BT = place_BT < length_B[:, None]
        hidden, _ = decoder.Decoder(config).apply(
            {"params": params}, tokens_BT, place_BT, inside_BT
        )
        head = decoder.head(params)
        return heads.logits_of(hidden[:, :-1], head, config.logit_cap)

    def of_rollout(form, rolled):
        """Logits that each token was drawn from, and which tokens were drawn."""
        logits = logits_of(*form, rolled.tokens_BT, rolled.length_B)
        place_T = np.arange(1, rolled.tokens_BT.shape[1])
        drawn = (place_T >= length_B[:, None]) & (place_T < rolled.length_B[:, None])
        return logits, np.asarray(drawn)

    rolled = sample(*forms["float32"])
    exact, drawn = of_rollout(forms["float32"], rolled)
    print(f"{int(drawn.sum())} tokens of {args.model}\n")
    print("| type | MiB | KL, mean | KL, largest | sampler gap, mean | largest |")
    print("|---|---|---|---|---|---|")
    for name, form in forms.items():
        logits, _ = of_rollout(form, rolled)
        lost = np.asarray(
            divergences.forward_kl(student_logits=logits, teacher_logits=exact)
        )[drawn]
        own = sample(*form)
        logits, own_drawn = of_rollout(form, own)
        logp = divergences.log_prob(logits, own.tokens_BT[:, 1:])
        gap = np.abs(np.asarray(logp - own.behavior_logp_BT[:, 1:]))[own_drawn]
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(form[1])) / 2**20
        cells = (name, f"{size:,.1f}", f"{lost.mean():.2e}", f"{lost.max():.2e}")
        cells += (f"{gap.mean():.2e}", f"{gap.max():.2e}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
