"""A conversation: turn by turn, and as a user starts it, from a pipe or a terminal."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

import jopd
import runs
from jopd import chat

HOW = dict(max_new_tokens=12, temperature=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model over bytes, with a chat template and long lines of thought."""
    made = tmp_path_factory.mktemp("chat") / "model"
    tokenizer = runs.byte_tokenizer()
    shape = dict(vocab_size=len(tokenizer), max_positions=4096, layers=1)
    return runs.make_model(made, tokenizer=tokenizer, **shape)


@pytest.fixture(scope="module")
def student(folder):
    return jopd.load(str(folder))


class Talk:
    """What is said in a conversation whose user says ``lines``."""

    def __init__(self, student, lines, **options):
        self.lines, self.told, self.pieces = iter(lines), [], []
        ask = lambda: next(self.lines, "")
        how = (ask, self.pieces.append, self.told.append)
        self.fine = chat.converse(student, *how, **(HOW | options))
        self.answers = "".join(self.pieces)


def expected(student, turns, seed):
    return "".join(student.stream(turns, seed=seed, chat="always", **HOW))


def test_every_turn_is_answered_from_all_before_it(student):
    talk = Talk(student, ["One\n", "\n", "  Two \n"], system="Brief.", seed=5)
    turns = [dict(role="system", content="Brief."), dict(role="user", content="One")]
    first = expected(student, turns, 5)
    turns.append(dict(role="assistant", content=first))
    second = expected(student, [*turns, dict(role="user", content="Two")], 6)
    assert talk.answers == f"{first}\n{second}\n" and first.strip()
    assert talk.fine and set(talk.told) <= {"cut at max_new_tokens"}


def test_commands(student):
    said = ["One", "/reset", "Two", "/rest", "/etc/hosts", "/quit", "Three"]
    talk = Talk(student, [f"{line}\n" for line in said])
    alone = dict(role="user", content="Two")
    answer = expected(student, [alone], 1)
    turns = [alone, dict(role="assistant", content=answer)]
    last = expected(student, [*turns, dict(role="user", content="/etc/hosts")], 2)
    assert talk.answers.endswith(f"{answer}\n{last}\n")
    assert "a new conversation" in talk.told and not talk.fine
    assert any(line.startswith("unknown command /rest; /reset") for line in talk.told)
    assert list(talk.lines) == ["Three\n"]


def test_what_does_not_fit_is_said_and_forgotten(student):
    talk = Talk(student, ["One", "x" * 5000, "Two"], seed=1)
    (said,) = [line for line in talk.told if line.startswith("error: ")]
    assert "max_new_tokens=12 exceed the 4096 positions of" in said
    assert said.endswith("a shorter prompt; or begin a new conversation with /reset")
    assert not talk.fine
    assert talk.answers == Talk(student, ["One", "Two"], seed=1).answers


def test_an_answer_that_is_stopped_stays_as_far_as_it_was_written(student):
    pieces = student.stream([dict(role="user", content="One")], chat="always", **HOW)
    shown = []

    def write(piece):
        shown.append(piece)
        if len(shown) == 2:
            raise KeyboardInterrupt

    answer, news = chat.answered(pieces, write)
    assert answer == "".join(shown[:2]) and shown[2:] == ["\n"]
    assert news == ("stopped" if answer.strip() else "stopped; the turn is not kept")


def test_an_answer_that_is_cut_or_empty_is_said():
    def pieces(texts, ended):
        yield from texts
        return ended

    write = lambda piece: None
    assert chat.answered(pieces(["a", "b"], True), write) == ("ab", "")
    cut = ("ab", "cut at max_new_tokens")
    assert chat.answered(pieces(["a", "b"], False), write) == cut
    empty = ("", "an empty answer; the turn is not kept")
    assert chat.answered(pieces([], True), write) == empty


def test_without_a_template_there_is_none(models):
    plain = jopd.load(str(models / "student"))
    with pytest.raises(
        ValueError, match=r"has no chat template.*; jopd generate --mod"
    ):
        chat.check(plain, "")


def test_a_system_turn_that_the_template_refuses_is_said_at_once(student, monkeypatch):
    refusing = "{{ raise_exception('no system') if messages[0].role == 'system' }}"
    template = refusing + "{% for m in messages %}{{ m.content }}{% endfor %}"
    monkeypatch.setattr(student.tokenizer, "chat_template", template)
    with pytest.raises(ValueError, match=r"--system='Brief\.': .*refuses.*no system"):
        chat.check(student, "Brief.")
    chat.check(student, "")


# The command.


def command(folder, *words: str) -> list[str]:
    return runs.command("chat", f"--model={folder}", "--max_new_tokens=12", *words)


def test_from_a_pipe_every_line_is_a_turn(folder, student, cache):
    options = dict(capture_output=True, text=True, timeout=100)
    options |= dict(env=runs.environment(cache))
    words = command(folder, "--seed=5", "--system=Brief.")
    done = subprocess.run(words, input="One\nTwo\n", **options)
    assert done.returncode == 0, done.stderr
    talk = Talk(student, ["One", "Two"], system="Brief.", seed=5)
    assert done.stdout == talk.answers
    assert done.stderr.splitlines() == talk.told
    done = subprocess.run(words, input=f"One\n{'x' * 5000}\n", **options)
    assert done.returncode == 1 and done.stdout == talk.answers.split("\n")[0] + "\n"
    (said,) = [n for n in done.stderr.splitlines() if n.startswith("error: ")]
    assert "exceed the 4096 positions" in said


def test_without_a_template_the_command_ends_in_one_line(models, cache):
    done = subprocess.run(
        command(models / "student"),
        env=runs.environment(cache),
        input="One\n",
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "has no chat template" in line


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, words, env):
        self.master, slave = pty.openpty()
        self.shown = ""
        own = dict(stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        self.child = subprocess.Popen(
            [sys.executable, "-c", TAKES_THE_TERMINAL, *words], env=env, **own
        )
        os.close(slave)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            while data := os.read(self.master, 4096):
                self.shown += data.decode(errors="replace")
        except OSError:
            pass  # the child has gone, and its terminal with it

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, holds, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not holds(self.shown):
            assert time.monotonic() < until, self.shown
            time.sleep(0.05)


# Ctrl-C goes to who has the terminal for its own, and is ignored by what a shell has
# begun in the background.
TAKES_THE_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_in_a_terminal_ctrl_c_ends_an_answer_and_then_the_program(cache, tmp_path):
    # Greedy, a random model goes around in a circle and finds no end; and so many
    # positions that it is not at the limit before the key is pressed.
    tokenizer = runs.byte_tokenizer()
    shape = dict(vocab_size=len(tokenizer), max_positions=100_000, layers=1)
    folder = runs.make_model(tmp_path / "model", tokenizer=tokenizer, **shape)
    words = runs.command("chat", f"--model={folder}", "--max_new_tokens=90000")
    env = runs.environment(cache) | {"TERM": "dumb"}
    run = Terminal([*words, "--temperature=0"], env)
    try:
        run.wait_for(lambda shown: "/reset begins" in shown and shown.endswith("> "))
        run.type("Hi\n")
        run.wait_for(lambda shown: len(shown) > len("Hi") + 300)
        run.type("\x03")
        run.wait_for(lambda shown: "stopped" in shown and shown.endswith("> "))
        assert run.child.poll() is None
        run.type("/reset\n")
        run.wait_for(lambda shown: "a new conversation\r\n> " in shown)
        run.type("\x03")
        assert run.child.wait(30) == 0
        assert "Traceback" not in run.shown
    finally:
        if run.child.poll() is None:
            run.child.send_signal(signal.SIGKILL)
        os.close(run.master)
