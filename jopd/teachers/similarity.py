"""How alike two texts are: ``(a, b) -> float`` in [0, 1], symmetric, 1 for equal texts.

``resolve`` turns a name of a config into a function of many pairs at a time, which is
what an encoder wants, and checks what it returns.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from jopd.losses.binding import imported, name_of

# (written texts, other texts) of equal length -> f32[pairs]
Similarity = Callable[[Sequence[str], Sequence[str]], np.ndarray]

MAX_CHARACTERS = 4000
# Pairs that tell a wrong range before a run: nothing, little and no agreement.
PROBES = (("", "", "7+6=13;", "the cat sat"), ("", "x", "7+8=15;", "the cat sat"))
_WORD = re.compile(r"\w+")


def ned(a: str, b: str) -> float:
    """1 - Levenshtein(a, b) / max(len(a), len(b)) over characters.

    Texts are cut at ``MAX_CHARACTERS``. Two empty texts give 1, an empty and another 0.
    """
    return Levenshtein.normalized_similarity(a[:MAX_CHARACTERS], b[:MAX_CHARACTERS])


def rouge1(a: str, b: str) -> float:
    """F1 of ROUGE-1: 2 * |common words| / (|words of a| + |words of b|), as multisets.

    Words are runs of letters, digits and underscores in lower case, not stemmed. Texts
    are cut at ``MAX_CHARACTERS``. Two texts without words give 1, one without 0.
    """
    words_a, words_b = (
        Counter(_WORD.findall(text[:MAX_CHARACTERS].lower())) for text in (a, b)
    )
    total = words_a.total() + words_b.total()
    return 2 * (words_a & words_b).total() / total if total else 1.0


SIMILARITIES = {"ned": ned, "rouge1": rouge1}


def resolve(
    name: str | Callable[[str, str], float], *, encoder: str = ""
) -> Similarity:
    """A similarity of pairs by name; ``package.module.function`` names one of your own.

    Args:
      name: a key of ``SIMILARITIES``, "embedding", a function of two texts, or the
        path of one.
      encoder: model directory for "embedding", see ``models.encoder``.

    Raises:
      ValueError: unknown name, a function that cannot be imported, or "embedding"
        without an encoder.
    """
    if name == "embedding":
        if not encoder:
            raise ValueError(
                "audit.similarity='embedding' needs an encoder; set audit.encoder to "
                "a BERT directory in Hugging Face format"
            )
        from jopd.models import encoder as encoders

        return _checked(encoders.load_similarity(encoder), name)
    if name in SIMILARITIES:
        return _checked(_pairwise(SIMILARITIES[name]), name)
    if callable(name):
        return _checked(_pairwise(name), name_of(name))
    if "." not in (name := str(name)):
        raise ValueError(
            f"similarity {name!r:.80} is unknown; use one of "
            f"{', '.join(SIMILARITIES)}, embedding, or package.module.function"
        )
    return _checked(_pairwise(imported(name, "similarity")), name)


def _pairwise(function) -> Similarity:
    return lambda a, b: np.array([function(x, y) for x, y in zip(a, b)], np.float32)


def _checked(function: Similarity, name: str) -> Similarity:
    """The same, refusing values outside of [0, 1]: they would make no probability."""

    def similarity(a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        if len(a) != len(b):
            raise ValueError(f"{len(a)} texts to compare with {len(b)}")
        values = np.asarray(function(a, b), np.float32)
        wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
        if len(wrong):
            at = wrong[0]
            raise ValueError(
                f"similarity {name!r} gave {values[at]} for {a[at]!r} and {b[at]!r}; "
                "it must lie in [0, 1], 1 for equal texts"
            )
        return values

    return similarity
