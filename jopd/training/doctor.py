"""What ``jopd doctor`` says of a pair: checks, nats a token, and what to set."""

from collections.abc import Iterator

import numpy as np

from jopd.losses.scoring import kl_name
from jopd.setup import lengths, needs
from jopd.setup.experiment import Experiment
from jopd.setup.pairing import OK, WARN, Finding
from jopd.teachers import roles
from jopd.training.readings import (
    KINDS,
    LIKELY,
    PROMPTS,
    SUPPORT,
    Measured,
    compared,
    measure,
)

# A log-ratio, and the share of tokens below it from which a teacher is far: of the
# bundled pairs the near ones have 3 to 15 %, the far one has 21 %.
FAR, MANY_FAR = -5.0, 0.17
FEW = 8  # prompts
PRECISE = 0.1  # share of a KL that its estimate may be wrong by
# A rate of Adam's by the student's width: 0.06 / width, two times up or down. That is
# what was best in our studies of widths 64, 128 and 576; for others it is inferred.
RATE, RATES_APART = 0.06, 2.0
LORA = 10.0  # adapters want about ten times the rate


def examine(e: Experiment, prompts: int = PROMPTS) -> Iterator[dict[str, list]]:
    """What needs no weights; then, where there are prompts, what is measured of them.

    Findings, nats a token, and what to set.
    """
    wrong = {one.line for one in e.looked}
    noted = [Finding("start", WARN, note) for note in e.notes if note not in wrong]
    yield {"findings": [*passed(e), *e.looked, *noted], "nats": [], "advice": []}
    if prompts:
        measured = measure(e, prompts)
        yield {
            "findings": findings(e, measured),
            "nats": table(measured, compared(e)),
            "advice": advice(e, measured),
        }


def plain(parts: list[dict[str, list]]) -> dict[str, list]:
    """All of it for JSON."""
    found = {key: [x for part in parts for x in part[key]] for key in parts[0]}
    nats = [dict(zip(("text", "kind", "model", "nats"), row)) for row in found["nats"]]
    looked = [one._asdict() for one in found["findings"]]
    return found | {"findings": looked, "nats": nats}


def passed(e: Experiment) -> list[Finding]:
    """What ``experiment.build`` would have refused, in words."""
    token, names = e.rows.tokenizer.convert_ids_to_tokens, e.models.keys() - {"student"}
    same = sorted(names - e.of_own_tokens - e.without_logits)
    others = ", ".join(sorted(e.of_own_tokens))
    said = [f"{e.shape.vocabulary:,}, the same for student and {', '.join(same)}"]
    said = said if same else [f"{e.shape.vocabulary:,}"]
    said += [f"{others} with tokens of its own"] * bool(others)
    ends = [f"{token(i) or 'no token'} ({i})" for i in e.stop_ids]
    ends += map(repr, e.rows.stop_strings)
    return [
        Finding("tokens", OK, "; ".join(said)),
        Finding("ends", OK, f"a response ends at {', '.join(ends) or 'nothing'}"),
    ]


def table(found: Measured, names: list[str]) -> list[tuple[str, str, str, float]]:
    """(text, kind, model, nats a token): means of -log p where there are tokens."""
    rows = []
    for what, text in (("gold", found.gold), ("its own", found.own)):
        for kind in KINDS if text is not None else ():
            for who in ("student", *names):
                mean = text.mean(f"logp/{who}", kind)
                if mean is not None:
                    rows.append((what, kind, who, -mean))
    return rows


def findings(e: Experiment, found: Measured) -> list[Finding]:
    """Every check of what was measured."""
    lines = [_prompts(found), _rate(e), _rollouts(e, found), *_rewards(e, found)]
    lines += _left_out(e, found)
    for name in compared(e):
        if found.own.mean(f"logp/{name}") is None:
            said = f"{name} serves none of the {found.prompts} held-out prompts"
            lines.append(Finding("not read", WARN, said, "take more with --prompts"))
            continue
        lines += [*_reads(e, found, name), _distance(found, name)]
        if f"fact/overlap/{name}" in found.own.facts:
            lines += [_overlap(found, name), _estimates(found, name)]
    return lines


def _prompts(found: Measured) -> Finding:
    said = f"{found.prompts} held-out prompts are measured"
    if found.prompts >= FEW:
        return Finding("prompts", OK, said)
    how = "hold more out (data.eval_path): numbers of so few are rough"
    return Finding("prompts", WARN, said, how)


def _left_out(e: Experiment, found: Measured) -> list[Finding]:
    """Who is not measured, and why."""
    said = []
    if found.gold is None:
        said.append("no held-out row has a gold solution that fits")
    peers = e.rows.peers.contexts if e.rows.peers else {}
    said += [f"{name} reads peers, which are of a batch" for name in peers]
    stored = [name for name in e.teachers if e.teachers[name].weights == "stored"]
    said += [f"{name} has scores of training rows only" for name in stored]
    return [Finding("not read", OK, line) for line in said]


def rates(e: Experiment) -> tuple[float, float]:
    """Lowest and highest learning rate to begin with."""
    shape = e.models["student"].config
    middle = RATE / shape.width * (LORA if shape.lora_rank else 1)
    return middle / RATES_APART, middle * RATES_APART


def _rate(e: Experiment) -> Finding:
    rate, (low, high) = e.config.optimizer.learning_rate, rates(e)
    wide = e.models["student"].config.width
    said = f"optimizer.learning_rate={rate:g} for a student {wide} wide"
    if rate <= high * 4:
        return Finding("rate", OK, said)
    return Finding("rate", WARN, said, f"begin with {low:.1g} to {high:.1g}, or lower")


def _rollouts(e: Experiment, found: Measured) -> Finding:
    limit = e.config.rollout.max_new_tokens
    said = (
        f"{found.truncated:.0%} of the student's rollouts have no end by {limit} tokens"
    )
    if found.truncated <= 0.5:
        return Finding("rollouts", OK, said)
    if (longer := lengths.evaluation_limit(e.config)) > limit:
        said += f", a horizon: evaluations go on to eval.max_new_tokens={longer}"
        return Finding("rollouts", OK, said)
    how = "raise rollout.max_new_tokens, or mend its ends: docs/doctor.md"
    return Finding("rollouts", WARN, said, how)


def _rewards(e: Experiment, found: Measured) -> list[Finding]:
    if found.reward is None or not e.rewards_first:
        return []
    said = f"the student's rollouts earn {found.reward:.2f} in the mean"
    if 0 < found.reward < 1:
        return [Finding("rewards", OK, said)]
    how = "groups of equal rewards teach nothing: take other prompts, or a divergence"
    return [Finding("rewards", WARN, said, how)]


def _reads(e: Experiment, found: Measured, name: str) -> list[Finding]:
    """Whether a teacher expects gold solutions, and how they begin and end."""
    text, lines = found.gold, []
    if text is None:
        return []
    nats = {
        (who, kind): -(text.mean(f"logp/{who}", kind) or 0.0)
        for who in ("student", name)
        for kind in KINDS
    }
    theirs, ours = nats[name, "body"], nats["student", "body"]
    said = f"gold is {theirs:.2f} nats a token for {name}, {ours:.2f} for the student"
    better = theirs <= ours + 0.02
    how = (
        "" if better else "it may be the wrong teacher for these rows, or misread them"
    )
    lines.append(Finding("gold text", OK if better else WARN, said, how))
    what = {
        "header": "the header of a turn",
        "first": "the first token of gold",
        "end": "the end of gold",
    }
    for kind, place in what.items():
        theirs, ours = nats[name, kind], nats["student", kind]
        if theirs > max(3.0, ours + 1.0, 2 * nats[name, "body"]):
            said = (
                f"{place} is {theirs:.1f} nats for {name}, {ours:.1f} for the student"
            )
            lines.append(Finding(kind, WARN, said, _remedy(e, name, kind)))
    return lines


def _remedy(e: Experiment, name: str, kind: str) -> str:
    """What helps a teacher that is surprised by how a response begins or ends."""
    ends = ", or other rollout.stop_ids" * (kind == "end")
    own = any(
        one.check == "templates" and one.state == OK and one.found.startswith(name)
        for one in e.looked
    )
    if own or e.rows.documents or name in e.of_own_tokens:
        key = f"{roles.key(name)}.context"
        return f"show it the form of answers in {key}{ends}"
    return f"set {roles.key(name)}.template='own'{ends}"


def _distance(found: Measured, name: str) -> Finding:
    ratio_N = found.own.facts[f"logp/{name}"] - found.own.facts["logp/student"]
    ratio_N = ratio_N[~np.isnan(ratio_N)]
    far = float((ratio_N < FAR).mean())
    said = (
        f"{name} finds {far:.1%} of the student's tokens e^{-FAR:g} times less likely, "
        f"{-ratio_N.mean():.2f} nats a token in the mean"
    )
    if far <= MANY_FAR:
        return Finding("distance", OK, said)
    how = "begin with gold rows (mix.gold), or see docs/doctor.md"
    return Finding("distance", WARN, said, how)


def _overlap(found: Measured, name: str) -> Finding:
    share = found.own.mean(f"fact/overlap/{name}")
    said = f"{share:.0%} of the {SUPPORT} likeliest tokens are {name}'s, too"
    if share >= 0.3:
        return Finding("overlap", OK, said)
    how = "a divergence on the student's support sees little; take support='union'"
    return Finding("overlap", WARN, said, how)


def _estimates(found: Measured, name: str) -> Finding:
    """Tokens that a KL asks for by one sampled token each, on a support, and whole.

    Of the loss, not of its gradient, which ``tools/gradients.py`` measures.
    """
    kl, sampled, exact = _spread(found, name)
    if not kl > 0:
        return Finding("estimates", OK, f"the student is {name} on its own text")
    tokens = lambda variance: round(variance / (PRECISE * kl) ** 2)
    part = found.own.mean(f"fact/likely/{name}") / kl
    return Finding(
        "estimates",
        OK,
        f"the reverse KL to {name} within {PRECISE:.0%} takes {tokens(exact):,} tokens "
        f"if it is exact, {tokens(sampled):,} if one is sampled at each place; the "
        f"student's {LIKELY} likeliest have {part:.0%} of it",
    )


def _spread(found: Measured, name: str) -> tuple[float, float, float]:
    """(KL, variance of its sampled estimate, variance of the exact one) over tokens."""
    kl_N = found.own.of(kl_name("reverse", name)).astype(np.float64)
    between = float(kl_N.var())
    within = found.own.mean(f"fact/square/{name}") - float((kl_N**2).mean())
    return float(kl_N.mean()), between + max(within, 0.0), between


def advice(e: Experiment, found: Measured) -> list[str]:
    """What to set, a line each, for the teachers that terms name."""
    lines, named = [], needs.frozen_named(e.config, e.terms)
    for name in compared(e):
        if name not in named or found.own.mean(f"logp/{name}") is None:
            continue
        if name in e.without_logits:
            lines.append(
                f"signal='policy_gradient' for {name}: it shows log-probabilities of "
                "what was written (docs/teachers.md has what else)"
            )
            continue
        kl, sampled, exact = _spread(found, name)
        if kl > 0:
            times = sampled / max(exact, 1e-9)
            lines.append(
                f"signal='reverse_kl' for {name}: as exact as {times:.1f} times as "
                "many tokens with 'policy_gradient', which needs less memory"
            )
    low, high, now = *rates(e), e.config.optimizer.learning_rate
    lines.append(f"optimizer.learning_rate={low:.1g} to {high:.1g} (it is {now:g})")
    return lines
