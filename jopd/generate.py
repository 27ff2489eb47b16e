"""Samples from any model directory.

    python -m jopd.generate --model=DIR --prompt="Once upon a time"

Give --prompt several times for several prompts, --samples for several continuations of
each. The library function behind it is ``jopd.rollout.generate``.
"""

import functools
import sys

from absl import app, flags

from jopd import commandline

flags.DEFINE_string("model", None, "HF directory, hub id, or demo:student|teacher.")
flags.DEFINE_multi_string("prompt", None, "Text to continue; may be repeated.")
flags.DEFINE_integer("samples", 1, "Continuations of each prompt.", lower_bound=1)
flags.DEFINE_integer("max_new_tokens", 128, "Most tokens to write.", lower_bound=1)
flags.DEFINE_float("temperature", 1.0, "0 is greedy.", lower_bound=0.0)
flags.DEFINE_integer("top_k", 0, "Keep the k most likely tokens; 0: all.")
flags.DEFINE_float("top_p", 1.0, "Keep the smallest set with this mass; 1: all.")
flags.DEFINE_float("min_p", 0.0, "Drop tokens below this share of the best; 0: none.")
flags.DEFINE_integer("seed", 0, "Of the random stream.")
flags.DEFINE_enum("chat", "auto", ["auto", "always", "never"], "Use the chat template.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")


def sample(
    path: str,
    prompts: list[str],
    *,
    samples: int = 1,
    max_new_tokens: int = 128,
    filters=None,
    seed: int = 0,
    chat: str = "auto",
    dtype: str = "float32",
) -> list[list[str]]:
    """Continuations as text, one list per prompt.

    Raises:
      ValueError, FileNotFoundError: the model or its tokenizer cannot be read, or
        prompt and continuation do not fit its positions.
    """
    import dataclasses

    import jax

    from jopd.batches import collect
    from jopd.data import sources
    from jopd.data.dataset import encode
    from jopd.models import decoder, hf
    from jopd.rollouts import sampling
    from jopd.rollouts.generate import generate
    from jopd.setup import inputs

    path = inputs.model_path(path)
    shape = dataclasses.replace(hf.load_config(path), dtype=dtype)
    tokenizer = inputs.load_tokenizer(path)
    examples = sources.examples([{"prompt": prompt} for prompt in prompts])
    dataset = encode(
        examples,
        tokenizer,
        max_prompt_tokens=shape.max_positions,
        max_response_tokens=max_new_tokens,
        chat_template=chat,
    )
    longest = max(len(prompt) for prompt in dataset.prompts)
    if longest + max_new_tokens > shape.max_positions:
        raise ValueError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} "
            f"exceed the {shape.max_positions} positions of {path}; use at most "
            f"--max_new_tokens={max(shape.max_positions - longest, 0)} or a shorter "
            "prompt"
        )
    _, params = hf.load(path, dtype=dtype)
    asked = collect.ask(
        dataset,
        list(range(len(prompts))),
        copies=samples,
        buckets=(longest,),
        limit=max_new_tokens,
    )
    eos = tokenizer.eos_token_id
    write = functools.partial(
        generate,
        model=decoder.Decoder(shape),
        max_new_tokens=max_new_tokens,
        stop_ids=() if eos is None else (eos,),
        vocabulary=min(shape.vocab_size, max(tokenizer.get_vocab().values()) + 1),
        filters=filters or sampling.Filter(),
    )
    rolled = jax.jit(write)(params, asked, jax.random.key(seed))
    texts = collect.responses(tokenizer, rolled)
    return [texts[i : i + samples] for i in range(0, len(texts), samples)]


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    from jopd.reporting import console
    from jopd.rollouts import sampling

    f = flags.FLAGS
    filters = sampling.Filter(f.temperature, f.top_k, f.top_p, f.min_p)
    try:
        found = sample(
            f.model,
            f.prompt,
            samples=f.samples,
            max_new_tokens=f.max_new_tokens,
            filters=filters,
            seed=f.seed,
            chat=f.chat,
            dtype=f.dtype,
        )
    except (ValueError, ImportError, OSError) as error:
        console.error(error)
        sys.exit(1)
    for prompt, texts in zip(f.prompt, found):
        for text in texts:
            print(
                f"{prompt}\x1b[1m{text}\x1b[0m"
                if sys.stdout.isatty()
                else prompt + text
            )


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "prompt"])
    app.run(main)
