"""Samples from any model directory.

    jopd generate --model=DIR --prompt="Once upon a time"

Give --prompt several times for several prompts, --samples for several continuations of
each. The library behind it is ``jopd.load(path).generate(texts)``.
"""

import sys

from absl import app, flags

from jopd import commandline

flags.DEFINE_string("model", None, "HF directory, hub id, or demo:student|teacher.")
flags.DEFINE_string(*commandline.CHECKPOINT)
flags.DEFINE_multi_string("prompt", None, "Text to continue; may be repeated.")
flags.DEFINE_integer("samples", 1, "Continuations of each prompt.", lower_bound=1)
flags.DEFINE_integer("max_new_tokens", 128, "Most tokens to write.", lower_bound=1)
flags.DEFINE_float("temperature", 1.0, "0 is greedy.", lower_bound=0.0)
flags.DEFINE_integer("top_k", 0, "Keep the k most likely tokens; 0: all.")
flags.DEFINE_float("top_p", 1.0, "Keep the smallest set with this mass; 1: all.")
flags.DEFINE_float("min_p", 0.0, "Drop tokens below this share of the best; 0: none.")
flags.DEFINE_multi_string("stop", [], "Text that ends a continuation; repeatable.")
flags.DEFINE_integer("seed", 0, "Of the random stream.")
flags.DEFINE_enum("chat", "auto", ["auto", "always", "never"], "Use the chat template.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    from jopd.data import decoding
    from jopd.setup import model
    from jopd.training import kept

    f = flags.FLAGS
    names = "samples", "max_new_tokens", "temperature", "top_k", "top_p", "min_p"
    options = {name: f[name].value for name in names}
    for line in decoding.escapes(f.stop, "--stop"):
        print(f"warning: {line}", file=sys.stderr)  # stdout is for texts
    with commandline.one_error(), kept.as_model(f.model, f.checkpoint) as path:
        student = model.load(path, dtype=f.dtype)
        found = student.generate(
            f.prompt, seed=f.seed, chat=f.chat, stop_strings=f.stop, **options
        )
        bold = "\x1b[1m{}\x1b[0m" if sys.stdout.isatty() else "{}"
        for prompt, texts in zip(f.prompt, found):
            for text in texts:
                print(prompt + bold.format(text))


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "prompt"])
    app.run(main, flags_parser=commandline.parse_flags)
