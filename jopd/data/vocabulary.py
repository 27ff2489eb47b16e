"""Whether two models speak the same tokens."""

# Digits, code, accents, other scripts, spaces: where tokenizers with one vocabulary
# but different rules come apart.
PROBE = "In 2024, f(x) = 3.14*x**2;\n\tif x != 17: Año façade  你好 Привет 🙂 don't"


def compare_tokenizers(student, teacher) -> list[str]:
    """Checks that two models can be compared token by token.

    Every id that both have must stand for the same token, and both must cut the same
    text alike. One may have further ids at the end.

    Returns:
      Warnings: differing chat templates or EOS, which make the teacher score turns
      that it would not write itself.

    Raises:
      ValueError: the vocabularies differ; names the first ids that do.
    """
    ours = {index: token for token, index in student.get_vocab().items()}
    theirs = {index: token for token, index in teacher.get_vocab().items()}
    different = sorted(i for i in ours.keys() & theirs.keys() if ours[i] != theirs[i])
    if different:
        shown = "; ".join(
            f"id {i}: student {ours[i]!r}, teacher {theirs[i]!r}" for i in different[:3]
        )
        raise ValueError(
            f"the tokenizers of student and teacher differ in {len(different)} of "
            f"{len(ours.keys() & theirs.keys())} shared ids: {shown}; take a pair "
            f"with one vocabulary"
        )
    if not _same_rules(student, teacher):
        cut = [t(PROBE, add_special_tokens=False) for t in (student, teacher)]
        ours, theirs = (row["input_ids"] for row in cut)
        if ours != theirs:
            raise ValueError(
                f"the tokenizers of student and teacher share their ids, but cut "
                f"{PROBE!r} into {ours} and {theirs}; take a pair with one tokenizer"
            )
    return _tokenizer_warnings(student, teacher)


def _same_rules(student, teacher) -> bool:
    """Equal definitions need no probe, which small vocabularies could not encode."""
    backends = [getattr(t, "backend_tokenizer", None) for t in (student, teacher)]
    return None not in backends and backends[0].to_str() == backends[1].to_str()


def _tokenizer_warnings(student, teacher) -> list[str]:
    names = {
        "chat_template": "chat templates differ: the teacher scores turns laid out for "
        "the student; give both one template",
        "eos_token_id": "end-of-sequence tokens differ: list both as stop tokens",
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
