"""Verifiers: `(response text, answer) -> float`, 1.0 for right and 0.0 for wrong.

They see text without special tokens. A response that cannot be read is wrong; an
answer that cannot be read is an error, as every response to it would be wrong.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from jopd.data import quantities
from jopd.losses.binding import imported

Verifier = Callable[[str, str], float]

MATH_SECONDS = 5
ROUNDING = Fraction(1, 10**6)  # of a decimal that stands for an endless fraction


def exact(response: str, answer: str) -> float:
    """Equal texts, white space around them aside."""
    return float(response.strip() == answer.strip())


def numeric(response: str, answer: str, tolerance: float = 0.0) -> float:
    """The number that the response gives is exactly that of the answer.

    What both give, and in which spellings, says `quantities.answer_of`. Decimals are
    equal or not; only a fraction that no decimal can write, such as ``1/3``, is met by
    one within ``ROUNDING``. Where asked for, ``tolerance`` lets
    ``|a - b| <= tolerance * max(1, |b|)`` pass.

    Raises:
      ValueError: the answer is no single number.
    """
    try:
        quantities.check_answer(answer)
        wanted = quantities.answer_of(answer)
    except quantities.Unreadable as error:
        raise ValueError(
            f"the answer {answer!r:.80} cannot be compared as a number ({error}); use "
            "the verifier 'math'"
        ) from error
    if wanted is None:
        raise ValueError(
            f"the answer {answer!r:.80} holds no number; use the verifier 'math' or "
            "'exact'"
        )
    try:
        found = quantities.answer_of(response)
    except quantities.Unreadable:
        return 0.0
    if found is None:
        return 0.0
    allowed = Fraction(tolerance) * max(1, abs(wanted))
    if _endless(found) != _endless(wanted):
        allowed = max(allowed, ROUNDING)
    return float(abs(found - wanted) <= allowed)


def _endless(value: Fraction) -> bool:
    """Whether no decimal can write it: its denominator has factors beside 2 and 5."""
    return 10 ** value.denominator.bit_length() % value.denominator != 0


def marked(response: str) -> float:
    """The response gives its answer in a closed ``\\boxed{}`` or behind ``####``."""
    return float(quantities.is_marked(response))


def arithmetic(response: str, answer: str) -> float:
    """Of the bundled task in digits, see `tasks.verify`."""
    from jopd.data import tasks

    return tasks.verify(response, answer)


def words(response: str, answer: str, prompt: str = "") -> float:
    """Of the bundled task in words, its steps too, see `words.verify`."""
    from jopd.data import words

    return words.verify(response, answer, prompt)


def math(response: str, answer: str) -> float:
    """Mathematically equal by math-verify: last ``\\boxed{}``, LaTeX, sets, intervals.

    Each parse and comparison may take `MATH_SECONDS`, then the response counts as
    wrong. Time limits need signals, which only a main thread gets, so calls from
    other threads are answered by a helper process, started with the first of them.

    Raises:
      ImportError: math-verify is missing. ValueError: the answer cannot be parsed.
    """
    if threading.current_thread() is threading.main_thread():
        verdict = _grade(response, answer)
    else:
        verdict = _HELPER.ask(response, answer)
    if verdict is None:
        raise ValueError(
            f"math-verify cannot parse the answer {answer!r}; use the verifier 'exact'"
        )
    return verdict


def _grade(response: str, answer: str) -> float | None:
    """The verdict, or None if the answer cannot be parsed. Main thread only."""
    try:
        import math_verify
    except ImportError as error:
        raise ImportError(
            "the verifier 'math' needs math-verify; pip install math-verify"
        ) from error
    marked = "\\boxed" in answer or "$" in answer.replace("\\$", "")
    wanted = math_verify.parse(
        answer if marked else f"\\boxed{{{answer}}}", parsing_timeout=MATH_SECONDS
    )
    if not wanted:
        return None
    # math-verify would join all boxes to a set; a corrected answer is the last one.
    last = response[max(response.rfind("\\boxed"), 0) :]
    found = math_verify.parse(last, parsing_timeout=MATH_SECONDS)
    return float(math_verify.verify(wanted, found, timeout_seconds=MATH_SECONDS))


class _Helper:
    """A process whose main thread grades; one request at a time, a line each way."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None

    def ask(self, response: str, answer: str) -> float | None:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None and stdout is not None
            stdin.write(json.dumps([response, answer]) + "\n")
            stdin.flush()
            line = stdout.readline()
        if not line:
            raise RuntimeError(
                "the helper process of the verifier 'math' ended; its message is above"
            )
        return json.loads(line)

    @staticmethod
    def _start() -> subprocess.Popen:
        root = str(Path(__file__).resolve().parents[2])
        program = (
            f"import sys; sys.path.insert(0, {root!r}); "
            f"from jopd.data import rewards; rewards._serve()"
        )
        return subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # signals to all are for the run, which ends it
        )


_HELPER = _Helper()


def _serve() -> None:
    """Grades lines of JSON from stdin until it closes, as it does with the parent."""
    for line in sys.stdin:
        print(json.dumps(_grade(*json.loads(line))), flush=True)


VERIFIERS: dict[str, Verifier] = {
    "exact": exact,
    "numeric": numeric,
    "math": math,
    "arithmetic": arithmetic,
    "words": words,
    "format": marked,
}


def resolve(name: str | Verifier, key: str = "eval.verifier") -> Verifier:
    """A verifier by name; ``package.module.function`` names one of your own.

    ``key`` is where a config names it.

    Raises:
      ValueError: nothing of that name.
    """
    if callable(name):
        return name
    if (name := str(name)) in VERIFIERS:
        return VERIFIERS[name]
    if "." in name:
        return imported(name, f"verifier of {key}")
    raise ValueError(
        f"{key}: verifier {name!r:.80} is unknown; use one of "
        f"{', '.join(VERIFIERS)}, or package.module.function"
    )


def alternatives(answer: str | tuple[str, ...] | None) -> tuple:
    """Answers of which each is right, the first to be shown; (None,) for none."""
    return answer if isinstance(answer, tuple) else (answer,)
