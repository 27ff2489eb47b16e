"""Which signal to choose: gradients of many terms on the same rollouts, untrained.

    python tools/gradients.py --config=opd --config=tropd --config=power_opd \\
        --batches=6 --page=docs/results/gradients.md
    python tools/gradients.py --config.student.path=DIR --config.teacher.path=DIR \\
        --config=opd --config=gkd --config.loss.gkd.beta=0.9 --config=mine.py

Overrides before the first ``--config`` are everybody's, those behind one are its own;
one config may come several times. All read one student and draw ``--batches`` times
``--prompts`` x ``--group`` rollouts with one seed from update ``--at`` on, where
schedules and prefixes are read; a config that samples otherwise, or starts from a
prefix, has rollouts of its own, and the table says so. GKD's coin and repeated use of
rollouts are off. Signals of the library are measured beside the configs' terms.

For every term, with its coefficient left out, and for all terms of a config together,
with their coefficients at that update:

    mean     norm of the mean gradient over batches
    batch    mean norm of the gradient of one batch
    forward  cosine of ONE batch with the mean gradient of the exact forward KL to the
             teacher, reverse: of the exact reverse KL, each over ``--reference``
             batches of other prompts: none is compared with a mean that holds itself
    snr      (|mean|^2 - v / n) / v, v the trace of the variance over n batches: what
             is left of |mean|^2 without its noise; 0.000: less than n batches resolve

A mean is noisy, too, and the more prompts it is over the less: the page says what
cosine its noise leaves at most. Of gradients only sums are kept.
"""

import argparse
import copy
import itertools
import runpy
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from studying.noise import Sums, added, ceiling, measured

from jopd import commandline
from jopd.batches import collect
from jopd.losses import memories
from jopd.reporting import console
from jopd.setup import builders, experiment, overrides, schedules
from jopd.setup.config import base_config
from jopd.teachers import moving
from jopd.training import stages, step, workdir

UNCLIPPED = dict(clip_low=1.0, clip_high=float("inf"))
# What is measured beside the terms of configs; the first two are compared with.
SIGNALS = {
    "forward_kl": dict(signal="forward_kl"),
    "reverse_kl": dict(signal="reverse_kl"),
    "jsd": dict(signal="jsd"),
    "skew_forward_kl": dict(signal="skew_forward_kl"),
    "skew_reverse_kl": dict(signal="skew_reverse_kl"),
    "total_variation": dict(signal="total_variation"),
    "policy_gradient": dict(signal="policy_gradient", **UNCLIPPED),
    "k1": dict(signal="k1"),
    "k2": dict(signal="k2"),
    "k3": dict(signal="k3", other="teacher"),
}
EXACT = ("forward_kl", "reverse_kl")
OURS = "the library"  # whose signals SIGNALS are
SHARED = (
    "student",
    "teacher",
    "data",
    "rollout",
    "mesh",
)  # what makes a pair's rollouts
READING = """
A sampled signal whose cosine is near that of the exact divergences teaches as much a
batch; one near 0 needs many more rollouts for the same step, whatever its rate. Norms
say how differently rates must be chosen. It is one state of the student: what a
schedule, a prefix or a moving teacher does later is not in it.
"""
LIVE = {"mix.on_policy_probability": 1.0, "mix.updates_per_rollout": 1}


class Case(NamedTuple):
    """A config to be measured, and what it is called in the table."""

    name: str
    config: Any


class Row(NamedTuple):
    """A line of the table; cosines are (mean, standard error) over batches."""

    config: str
    term: str
    mean: float
    batch: float
    forward: tuple[float, float]
    reverse: tuple[float, float]
    snr: float
    rollouts: str


class Drawn(NamedTuple):
    """Batches of a config, all that their gradients read, and ``more`` batches."""

    e: experiment.Experiment
    frozen: dict
    batches: list[tuple[collect.Collected, step.Prepared]]
    more: Iterator[tuple[collect.Collected, step.Prepared]]
    gradient: Any


def draw(config, batches: int, at: int) -> Drawn:
    """Batches as a run would collect them from update ``at`` on, if it stood still."""
    e = experiment.build(config)
    for note in e.notes:
        console.warn(note)
    frozen = e.frozen | moving.start(e.teachers, e.params)
    more = walk(e, frozen, at)
    first = list(itertools.islice(more, batches))
    return Drawn(e, frozen, first, more, make_gradient(e))


def walk(e: experiment.Experiment, frozen: dict, at: int):
    """Yields (collected, prepared) of one update after the other, from ``at`` on."""
    stage = stages.build_stages(e, builders.build_optimizer(e.config)[1])
    buffer = collect.empty_buffer(e.mix, e.widths.rows[-1])
    memory = memories.start(e.terms, e.shape.vocabulary)
    for number in itertools.count(at):
        student = step.TrainState(number, e.params, None, memory)
        buffer, got = stage.collect(student, buffer, number)
        prepared = stage.prepare(e.params, frozen, got.batch, memory)
        memory = prepared.memory
        yield got, prepared


def make_gradient(e: experiment.Experiment):
    """``(params, frozen, batch, prepared, coefs) -> f32[P]``, compiled."""
    whole = step.make_gradient(
        e.models["student"],
        e.terms,
        e.shape,
        panels=e.panels,
        accumulate=e.config.optimizer.accumulate,
        with_facts=False,
        layers=step.layers_in(e.models),
    )
    flat = jax.jit(lambda *words: ravel_pytree(whole(*words)[1])[0])
    return lambda params, frozen, batch, prepared, coefs: np.asarray(
        flat(
            params,
            stages.beside_base(e, frozen),
            step.for_student(batch),
            prepared,
            coefs,
        )
    )


def gradients(drawn: Drawn, coefs: dict[str, float]) -> Iterable[np.ndarray]:
    """f32[P] of every batch under coefficients of all terms."""
    for got, prepared in drawn.batches:
        yield drawn.gradient(drawn.e.params, drawn.frozen, got.batch, prepared, coefs)


def questions(drawn: Drawn, at: int) -> dict[str, dict[str, float]]:
    """What is asked of a config, as coefficients: each term alone, and all together."""
    names = [term.name for term in drawn.e.terms]
    asked = {name: {other: float(other == name) for other in names} for name in names}
    if len(names) > 1:
        asked["all"] = schedules.coefficients(drawn.e.config, at)
    return asked


def references_of(plain: Drawn, batches: int) -> tuple[Sums, ...]:
    """Of the exact divergences, over batches behind those that are measured."""
    asked, sums = questions(plain, 0), dict.fromkeys(EXACT, Sums())
    for got, prepared in itertools.islice(plain.more, batches):
        for name in EXACT:
            words = plain.e.params, plain.frozen, got.batch, prepared, asked[name]
            sums[name] = added(sums[name], plain.gradient(*words))
    return tuple(sums.values())


def rows_of(
    case: Case, drawn: Drawn, plain: Drawn, references, at: int
) -> Iterable[Row]:
    """The lines of a config."""
    rollouts, asked = same(drawn, plain), questions(drawn, at)
    if drawn is plain:
        del asked["all"]  # of SIGNALS, which are no method together
    for term, coefs in asked.items():
        found = measured(gradients(drawn, coefs), references)
        yield Row(config=case.name, term=term, rollouts=rollouts, **found)


def same(one: Drawn, other: Drawn) -> str:
    """In how many batches two configs were given the same rollouts."""
    pairs = zip(one.batches, other.batches, strict=True)
    equal = [written(a) == written(b) for (a, _), (b, _) in pairs]
    if all(equal):
        return "same"
    return f"{sum(equal)} of {len(equal)} same" if any(equal) else "own"


def written(got: collect.Collected) -> list[tuple[int, ...]] | None:
    """The fresh rollouts of a batch, prompts included."""
    if got.fresh is None:
        return None
    rollout = jax.device_get(got.fresh.rollout)
    pairs = zip(rollout.tokens_BT, rollout.length_B, strict=True)
    return [tuple(tokens[:length].tolist()) for tokens, length in pairs]


def plain_config(config):
    """Rollouts of a config's pair, and the terms of SIGNALS."""
    c = base_config()
    with c.unlocked():
        for key in SHARED:
            c[key].update(copy.deepcopy(config[key].to_dict()))
        c.seed, c.steps, c.loss = config.seed, config.steps, SIGNALS
        c.rollout.prefix.source = ""
        for key in ("early_stop", "behavior", "horizon"):
            c.rollout[key] = base_config().rollout[key]
    return c.lock()


def read_words(words: list[str]) -> tuple[list[str], list[Case]]:
    """(words that are not of a config, the configs).

    Raises:
      ValueError: no such config or key.
    """
    parts: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--config="):
            parts.append([])
        parts[-1].append(word)
    rest, everybody = overrides.split(parts[0])
    cases = []
    for first, *more in parts[1:]:
        path = Path(commandline.with_paths([first])[0].partition("=")[2])
        beside, own = overrides.split(more)
        rest += beside
        config = runpy.run_path(str(path))["get_config"]()
        overrides.apply(config, [*everybody, *own])
        said = [f"{key}={text}" for key, text in own]
        cases.append(Case(", ".join([path.stem, *said]), config))
    return rest, cases


def check(cases: list[Case]) -> None:
    """Raises ValueError where configs are not of one pair."""
    first = cases[0]
    for case in cases:
        for key in ("student", "teacher"):
            path, others = case.config[key].path, first.config[key].path
            if path != others and (path or key == "student"):
                raise ValueError(
                    f"{case.name} has {key}.path={path!r}, {first.name} {others!r}: "
                    "gradients of one pair are compared; give --config."
                    f"{key}.path=PATH before the first --config, or measure them apart"
                )
        if case.config.init_from.run:
            raise ValueError(
                f"{case.name} has init_from.run={case.config.init_from.run!r}, but "
                "student.path is what is measured: name that run's export there"
            )


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="--config=NAME and --config.KEY=VALUE: see the head of this file.",
    )
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=6, help="of a batch")
    parser.add_argument("--group", type=int, default=8, help="rollouts of a prompt")
    half = "first update to be looked at; default: the middle of the first config's run"
    parser.add_argument("--at", type=int, help=half)
    parser.add_argument("--reference", type=int, default=24, help="batches, see above")
    parser.add_argument("--page", type=Path, help="markdown to write")
    args = parser.parse_args(words)
    for name in ("batches", "reference"):
        if getattr(args, name) < 2:
            parser.error(f"--{name}={getattr(args, name)}; a variance needs at least 2")
    return args


def settle(config, args) -> None:
    """Batches of one size for all, of rollouts just drawn."""
    sizes = {
        "rollout.prompts_per_step": args.prompts,
        "rollout.group_size": args.group,
    }
    config.update_from_flattened_dict(LIVE | sizes)
    config.lock()


def study(cases: list[Case], args) -> tuple[list[Row], Drawn, tuple[Sums, ...]]:
    """All lines, the best cosine with the forward KL first; the plain rollouts, and
    what all were compared with."""
    check(cases)
    for case in cases:
        settle(case.config, args)
    ours = Case(OURS, plain_config(cases[0].config))
    # Prompts of an update are a function of its number: one for all configs.
    at = ours.config.steps // 2 if args.at is None else args.at
    plain = draw(ours.config, args.batches, at)
    references = references_of(plain, args.reference)
    rows = list(rows_of(ours, plain, plain, references, at))
    for case in cases:
        console.say(f"measuring {case.name}")
        drawn = draw(case.config, args.batches, at)
        rows += rows_of(case, drawn, plain, references, at)
    best = lambda row: -np.nan_to_num(row.forward[0], nan=-2)
    return sorted(rows, key=best), plain, references


def table(rows: list[Row]) -> str:
    head = ["config", "term", "mean", "batch", "forward", "reverse", "snr", "rollouts"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row.config, row.term, f"{row.mean:.3g}", f"{row.batch:.3g}"]
        cells += [near(row.forward), near(row.reverse)]
        cells += ["–" if np.isnan(row.snr) else f"{row.snr:.3f}", row.rollouts]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def near(value: tuple[float, float]) -> str:
    """A cosine and its standard error; a dash where there was no gradient."""
    return "–" if np.isnan(value[0]) else f"{value[0]:.2f} ± {value[1]:.2f}"


def page(rows: list[Row], plain: Drawn, references, words: list[str], args) -> str:
    """The markdown page."""
    tokens = [int(np.sum(np.asarray(got.batch.mask_BT))) for got, _ in plain.batches]
    forward, reverse = (f"{ceiling(sums):.2f}" for sums in references)
    c = plain.e.config
    pair = f"Student `{c.student.path}`, teacher `{c.teacher.path}`"
    meaning = __doc__.split("For every term,")[1].split("A mean is noisy")[0]
    parts = [
        "# Gradients of one pair, term by term",
        f"```sh\npython tools/gradients.py {' '.join(words)}\n```",
        f"{pair}, untrained, on `{c.data.path}`: {args.batches} batches of "
        f"{args.prompts} prompts x {args.group} rollouts, {np.mean(tokens):,.0f} "
        f"response tokens each. The exact mean gradients are over {args.reference} "
        f"further ones; their noise leaves a cosine of {forward} (forward KL) and "
        f"{reverse} (reverse KL) at most.",
        table(rows),
        "## How to read it",
        f"For every term,{meaning.strip()}",
        READING.strip(),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    commandline.quiet()
    began, words = time.perf_counter(), sys.argv[1:]
    with commandline.one_error():
        rest, cases = read_words(words)
        args = arguments(rest)
        if not cases:
            raise ValueError(
                "name a config, such as --config=opd, once or several times"
            )
        workdir.use_compilation_cache()
        rows, *seen = study(cases, args)
        print(table(rows))
        if args.page:
            args.page.parent.mkdir(parents=True, exist_ok=True)
            args.page.write_text(page(rows, *seen, words, args))
        console.say(f"{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    main()
