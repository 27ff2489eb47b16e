"""The command ``jopd``, also as ``python -m jopd``: one word chooses what it does."""

import runpy
import sys

COMMANDS = {
    "train": ("jopd.main", "a run, as a config says; the same words again resume it"),
    "generate": ("jopd.generate", "texts from any model directory"),
    "chat": ("jopd.chat", "a conversation with a model, in a terminal or a pipe"),
    "doctor": ("jopd.doctor", "a pair looked over before a run, and what to set"),
    "probe": ("jopd.probe", "what a teacher's context is worth before a run"),
    "score": ("jopd.score", "what a teacher says of gold rows, once for many runs"),
    "serve": ("jopd.serve", "a model behind OpenAI's protocol, as a teacher elsewhere"),
    "export": ("jopd.export", "a checkpoint of a run as a model directory"),
    "evaluate": ("jopd.evaluate", "any model, under a config's data and teacher"),
    "geometry": ("jopd.geometry", "where training has moved a model's matrices"),
}


def usage() -> str:
    rows = (f"  jopd {name:<10}{said}" for name, (_, said) in COMMANDS.items())
    return "\n".join(
        (
            "On-policy distillation of language models.",
            "",
            *rows,
            "",
            "jopd COMMAND --help lists flags and, for train and evaluate, all keys.",
        )
    )


def main() -> None:
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in COMMANDS:
        sys.argv = [f"jopd {word}", *sys.argv[2:]]
        runpy.run_module(COMMANDS[word][0], run_name="__main__", alter_sys=True)
    elif word in ("--help", "-h", "help"):
        print(usage())
    else:
        known = ", ".join(COMMANDS)
        print(f"error: unknown command {word!r}; known: {known}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
