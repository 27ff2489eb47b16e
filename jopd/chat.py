"""A conversation with a model: ``jopd chat --model=DIR``.

In a terminal, where /reset begins a new conversation, /quit or Ctrl-D ends the program,
Ctrl-C ends an answer and at the prompt the program. From a pipe every line is a turn,
answers are all of stdout, and a turn that could not be answered makes the status 1.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Generator

from absl import app, flags

from jopd import commandline

HELP = "/reset begins a new conversation, /quit or Ctrl-D ends, Ctrl-C ends an answer"


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    from jopd.setup import model
    from jopd.training import kept

    f, typed = flags.FLAGS, sys.stdin.isatty()
    with (
        contextlib.suppress(KeyboardInterrupt),
        commandline.one_error(),
        kept.as_model(f.model, f.checkpoint) as path,
    ):
        student = model.load(path, dtype=f.dtype)
        check(student, f.system)
        if typed:
            tell(HELP)
        ask = from_terminal if typed else sys.stdin.readline
        options = dict(system=f.system, **commandline.writing())
        if not converse(student, ask, write, tell, **options) and not typed:
            sys.exit(1)


def check(student, system: str) -> None:
    """Raises ValueError where there can be no conversation: says what to do instead."""
    if student.tokenizer.chat_template is None:
        raise ValueError(
            f"{student.path} has no chat template, so its tokenizer cannot tell turns "
            "apart; jopd generate --model=... --prompt=... continues plain text"
        )
    try:
        student.tokens([*opening(system), dict(role="user", content="?")])
    except ValueError as error:
        where = f"--system={system!r:.80}: " if system else ""
        raise ValueError(f"{where}{error}") from error


def converse(
    student,
    ask: Callable[[], str],
    write: Callable[[str], None],
    tell: Callable[[str], None],
    *,
    system: str = "",
    seed: int = 0,
    **options,
) -> bool:
    """Turns until there are none; returns whether all of them were answered.

    Args:
      student: a ``setup.model.Model``.
      ask: the next line of the user, empty at the end.
      write: takes the pieces of answers as they come.
      tell: takes news, a line each.
      seed: of the first answer; each later one counts on by 1.
      options: of ``Model.stream``.
    """
    turns, fine = opening(system), True
    while line := ask():
        text = line.strip()
        if text == "/quit":
            break
        if text == "/reset":
            turns = opening(system)
            tell("a new conversation")
        elif re.fullmatch(r"/[a-z]+", text):
            tell(f"unknown command {text}; {HELP}")
            fine = False
        elif text:
            asked = [*turns, dict(role="user", content=text)]
            pieces = student.stream(asked, seed=seed, chat="always", **options)
            try:
                answer, news = answered(pieces, write)
            except ValueError as error:
                tell(f"error: {error}; or begin a new conversation with /reset")
                fine = False
                continue
            if news:
                tell(news)
            if answer.strip():
                turns = [*asked, dict(role="assistant", content=answer)]
            seed += 1
    return fine


def answered(
    pieces: Generator[str, None, bool], write: Callable[[str], None]
) -> tuple[str, str]:
    """The answer that was written, and what there is to say of it."""
    said: list[str] = []
    try:
        while True:
            said.append(next(pieces))
            write(said[-1])
    except StopIteration as end:
        news = "" if end.value else "cut at max_new_tokens"
    except KeyboardInterrupt:
        news = "stopped"
    write("\n")
    whole = "".join(said)
    if not whole.strip():
        news = f"{news or 'an empty answer'}; the turn is not kept"
    return whole, news


def opening(system: str) -> list[dict]:
    """The turns that a conversation begins with."""
    return [dict(role="system", content=system)] * bool(system)


def from_terminal() -> str:
    """A line that is typed; empty where Ctrl-D or Ctrl-C is."""
    import readline  # noqa: F401 - input() then has a history and can be edited

    try:
        return input("> ") + "\n"
    except (EOFError, KeyboardInterrupt):
        tell("")
        return ""


def write(piece: str) -> None:
    print(piece, end="", flush=True)


def tell(line: str) -> None:
    """On stderr: stdout is for answers."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    commandline.define_writing(512)
    flags.DEFINE_string("system", "", "System turn of every conversation; empty: none.")
    flags.mark_flag_as_required("model")
    app.run(main, flags_parser=commandline.parse_flags)
