"""Samples from any model directory.

    jopd generate --model=DIR --prompt="Once upon a time"

Give --prompt several times for several prompts, --samples for several continuations of
each. The library behind it is ``jopd.load(path).generate(texts)``.
"""

import sys

from absl import app, flags

from jopd import commandline

commandline.define_writing(128)
flags.DEFINE_multi_string("prompt", None, "Text to continue; may be repeated.")
flags.DEFINE_integer("samples", 1, "Continuations of each prompt.", lower_bound=1)
flags.DEFINE_multi_string("stop", [], "Text that ends a continuation; repeatable.")
flags.DEFINE_enum("chat", "auto", ["auto", "always", "never"], "Use the chat template.")


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    from jopd.data import decoding
    from jopd.setup import model
    from jopd.training import kept

    f = flags.FLAGS
    options = dict(samples=f.samples, **commandline.writing())
    for line in decoding.escapes(f.stop, "--stop"):
        print(f"warning: {line}", file=sys.stderr)  # stdout is for texts
    with commandline.one_error(), kept.as_model(f.model, f.checkpoint) as path:
        student = model.load(path, dtype=f.dtype)
        found = student.generate(f.prompt, chat=f.chat, stop_strings=f.stop, **options)
        bold = "\x1b[1m{}\x1b[0m" if sys.stdout.isatty() else "{}"
        for prompt, texts in zip(f.prompt, found):
            for text in texts:
                print(prompt + bold.format(text))


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "prompt"])
    app.run(main, flags_parser=commandline.parse_flags)
