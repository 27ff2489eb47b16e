"""Whether two models speak the same tokens, and which of them are compared."""

import json

# Digits, code, accents, other scripts, spaces: where tokenizers with one vocabulary
# but different rules come apart.
PROBE = "In 2024, f(x) = 3.14*x**2;\n\tif x != 17: Año façade  你好 Привет 🙂 don't"


def probe(tokenizer) -> str:
    """What of ``PROBE`` a tokenizer can write; one of letters cannot write all."""

    def able(letter: str) -> bool:
        try:
            return bool(tokenizer(letter, add_special_tokens=False)["input_ids"])
        except Exception:  # whatever a tokenizer raises for what it has not
            return False

    return "".join(letter for letter in PROBE if able(letter))


MANY = 1 << 31  # more than any head has rows


def compare_tokenizers(student, teacher, rows: int = MANY) -> list[str]:
    """Checks that two models can be compared token by token.

    Every id that both have must stand for the same token, apart from a few added ones
    (see `pairing`), and both must cut the same text alike. One may have further ids at
    the end.

    Returns:
      Warnings: added tokens that differ; differing chat templates, which make
        the teacher score turns that it would not write itself.

    Raises:
      ValueError: the vocabularies differ; names the first ids that do.
    """
    ours, theirs = _tokens(student), _tokens(teacher)
    shared = ours.keys() & theirs.keys()
    different = sorted(i for i in shared if ours[i] != theirs[i])
    shown = "; ".join(
        f"id {i}: student {ours[i]!r}, teacher {theirs[i]!r}" for i in different[:3]
    )
    added = {*student.added_tokens_decoder} & {*teacher.added_tokens_decoder}
    if not added.issuperset(different) or 2 * len(different) > len(shared):
        raise ValueError(
            f"the tokenizers of student and teacher differ in {len(different)} of "
            f"{len(shared)} shared ids: {shown}; take a pair with one vocabulary, or "
            "give the teacher tokenizer='own' (docs/teachers.md)"
        )
    if not _same_rules(student, teacher):
        cut = [t(PROBE, add_special_tokens=False) for t in (student, teacher)]
        ours, theirs = (row["input_ids"] for row in cut)
        if ours != theirs:
            raise ValueError(
                f"the tokenizers of student and teacher share their ids, but cut "
                f"{PROBE!r} into {ours} and {theirs}; take a pair with one tokenizer, "
                "or give the teacher tokenizer='own' (docs/teachers.md)"
            )
    notes = _tokenizer_warnings(student, teacher)
    if not different:
        return notes
    names = student.convert_ids_to_tokens, teacher.convert_ids_to_tokens
    pairs = [
        f"{names[0](here)!r} ({here}) with {names[1](there)!r} ({there})"
        for here, there in _partners(student, teacher, rows).items()
    ]
    more = f"; {len(different) - 3} more" * (len(different) > 3)
    return [
        f"{len(different)} of {len(shared):,} shared ids are other added tokens: "
        f"{shown}{more}; paired are {', '.join(pairs) or 'none of them'}, the teacher "
        "reads the rest as its own",
        *notes,
    ]


def pairing(student, teacher, rows: int = MANY) -> dict[int, int]:
    """Student ids to the teacher ids that they are compared with, where those differ.

    A permutation of a few ids below ``rows``, those of the smaller head. A token that
    the teacher has under another id is paired with that, and so are the ends of a
    response. What loses its place by that takes the one that is left over.
    """
    found = _partners(student, teacher, rows)
    inverse = {there: here for here, there in found.items()}
    for last in found.keys() | inverse.keys():
        if last in found:
            continue
        first = last
        while first in inverse:
            first = inverse[first]
        found[last] = first
    return found


def _partners(student, teacher, rows: int) -> dict[int, int]:
    """Added tokens of the student that the teacher has elsewhere, and the two ends."""
    theirs = teacher.get_vocab()
    names = {i: str(token) for i, token in student.added_tokens_decoder.items()}
    found = {i: theirs[name] for i, name in names.items() if name in theirs}
    end, other = student.eos_token_id, teacher.eos_token_id
    if None not in (end, other) and end not in found and other not in found.values():
        found[end] = other
    return {i: j for i, j in found.items() if i != j and max(i, j) < rows}


def _tokens(tokenizer) -> dict[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items()}


def _same_rules(student, teacher) -> bool:
    """Equal definitions, added tokens apart.

    They need no probe, which small vocabularies could not encode.
    """
    backends = [getattr(t, "backend_tokenizer", None) for t in (student, teacher)]
    if None in backends:
        return False
    one, other = (backend.to_str() for backend in backends)
    return one == other or _rules(one) == _rules(other)


def _rules(definition: str) -> dict:
    rules = json.loads(definition)
    added = {token["content"] for token in rules["added_tokens"]}
    vocab = rules["model"].get("vocab", {})
    entries = vocab.items() if isinstance(vocab, dict) else map(tuple, vocab)
    rules["model"]["vocab"] = {t: n for t, n in entries if t not in added}
    kept = ("normalizer", "pre_tokenizer", "decoder", "model")
    return {key: rules[key] for key in kept}


def _tokenizer_warnings(student, teacher) -> list[str]:
    names = {
        "bos_token_id": "begin-of-sequence tokens differ: prompts follow the student's",
    }
    return [
        f"{text} (student {getattr(student, name)!r:.60}, teacher "
        f"{getattr(teacher, name)!r:.60})"
        for name, text in names.items()
        if getattr(student, name) != getattr(teacher, name)
    ]


def shared_vocab(student_rows: int, teacher_rows: int, tokenizer) -> int:
    """Columns of logits to keep on both sides: the smaller head.

    Heads are padded to round sizes (Qwen2.5 has 151,936 rows up to 3B, 152,064 from
    7B on, for 151,665 tokens), so both are cut to the common size before they are
    normalised. Rows beyond the tokenizer that both heads have stay: both models
    learnt to give them next to nothing.

    Raises:
      ValueError: the smaller head lacks rows for tokens the tokenizer may write.
    """
    shared = min(student_rows, teacher_rows)
    needed = max(tokenizer.get_vocab().values()) + 1
    if needed > shared:
        raise ValueError(
            f"the tokenizer has ids up to {needed - 1}, but the heads have "
            f"{student_rows} (student) and {teacher_rows} (teacher) rows; take the "
            f"tokenizer that belongs to the models"
        )
    return shared
