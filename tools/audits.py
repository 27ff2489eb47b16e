"""How far audits of a text teacher scatter, by samples and prior, untrained.

    python tools/audits.py --config=omniopd --page=docs/results/omniopd_prior.md

Draws rollouts as the first update of a run would, lets the teacher audit the same
chunks ``--repeats`` times with one continuation each, and forms from N of them what
OmniOPD (arXiv:2606.01476) makes of N samples, for several N and alpha:

    pihat = (k + alpha pibar) / (N + alpha)      k the summed similarities, in [0, N]
    scatter   root mean over chunks of Var(pihat | chunk), over audits
    shift     root mean of (E[pihat | chunk] - s)^2, s the mean of all repeats
    error     root of the sum of their squares: how far one audit is from s
    agrees    correlation over chunks of one audit's pihat with s: 1 ranks chunks as
              infinitely many continuations would; no scale or baseline changes it

Overrides (``--config.KEY=...``) are those of a run.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import gradients
import numpy as np

from jopd import commandline
from jopd.reporting import console
from jopd.setup import experiment
from jopd.teachers import moving
from jopd.training import annotations, step, workdir

SAMPLES = (1, 2, 4, 8, 16)
ALPHAS = (0.0, 0.5, 1.0, 4.0)


class Spread(NamedTuple):
    """A line of the table; all but ``agrees`` in units of similarity, [0, 1]."""

    samples: int
    alpha: float
    scatter: float
    shift: float
    error: float
    agrees: float


def spread(alike_RC, prior_C, samples: int, alpha: float) -> Spread:
    """Of ``samples`` audits of C chunks and a prior, from R repeats of one sample.

    Of independent repeats the moments of sums of any N are known: none is drawn again.
    """
    repeats = len(alike_RC)
    mean_C, variance_C = alike_RC.mean(0), alike_RC.var(0, ddof=1)
    expected_C = (samples * mean_C + alpha * prior_C) / (samples + alpha)
    scatter = samples * variance_C.mean() / (samples + alpha) ** 2
    shift = np.mean(np.square(expected_C - mean_C))
    # The means of few repeats differ between chunks by accident, too.
    accident, part = variance_C.mean() / repeats, samples / (samples + alpha)
    truth, seen = mean_C.var(ddof=1), expected_C.var(ddof=1)
    both = np.cov(mean_C, expected_C)[0, 1] - part * accident
    area_2 = (truth - accident) * (seen - part**2 * accident + scatter)
    return Spread(
        samples,
        alpha,
        scatter=scatter**0.5,
        shift=shift**0.5,
        error=(scatter + shift) ** 0.5,
        agrees=both / area_2**0.5 if area_2 > 0 else float("nan"),
    )


def audited(config, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """(f64[repeats, chunks] similarities of one sample each, f64[chunks] of pibar)."""
    e = experiment.build(config)
    for note in e.notes:
        console.warn(note)
    frozen = e.frozen | moving.start(e.teachers, e.params)
    got, _ = next(gradients.walk(e, frozen, 0))
    annotate, rows = annotations.make_audit(e), []
    for repeat in range(repeats):
        batch, _ = annotate(e.params, got.batch, repeat)
        number_BT = np.asarray(batch.extra["chunk"])
        before_BT = np.pad(number_BT, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
        first_BT = (number_BT >= 0) & (number_BT != before_BT)
        rows.append(np.asarray(batch.extra["similarity"], float)[first_BT])
    facts = step.make_facts({"student": e.models["student"]}, e.shape)
    logp_BT = np.asarray(facts(e.params, {}, got.batch)["logp/student"], float)
    tokens = config.audit.chunk_tokens
    prior = [logp_BT[b, t : t + tokens].mean() for b, t in np.argwhere(first_BT)]
    return np.stack(rows), np.exp(prior)


def table(lines: list[Spread]) -> str:
    rows = ["| N | alpha | scatter | shift | error | agrees |", "|---" * 6 + "|"]
    for line in lines:
        rest = (line.scatter, line.shift, line.error)
        cells = [str(line.samples), f"{line.alpha:g}", *(f"{x:.3f}" for x in rest)]
        rows.append(f"| {' | '.join(cells)} | {line.agrees:.2f} |")
    return "\n".join(rows)


def page(lines, alike_RC, prior_C, config, words: list[str]) -> str:
    """The markdown page."""
    c, meaning = config.audit, __doc__.split("several N and alpha:\n")[1]
    pair = f"Student `{config.student.path}`, teacher `{config.teacher.path}`"
    likeness = alike_RC.mean(0)
    found = np.corrcoef(likeness, prior_C)[0, 1]
    parts = [
        "# What the prior of OmniOPD does to one audit",
        f"```sh\npython tools/audits.py {' '.join(words)}\n```",
        f"{pair}, untrained: {len(prior_C)} chunks of {c.chunk_tokens} tokens, "
        f"{len(alike_RC)} audits of one continuation each, similarity "
        f"`{c.similarity}`. Mean similarity {likeness.mean():.3f} (standard deviation "
        f"over chunks {likeness.std():.3f}), mean prior {prior_C.mean():.3f}, "
        f"correlation of the two {found:.2f}.",
        table(lines),
        meaning.split("Overrides (")[0].strip("\n"),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    commandline.quiet()
    words = sys.argv[1:]
    with commandline.one_error():
        rest, cases = gradients.read_words(words)
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("--repeats", type=int, default=64)
        parser.add_argument("--page", type=Path, help="markdown to write")
        args = parser.parse_args(rest)
        if len(cases) != 1 or not cases[0].config.audit.chunks:
            raise ValueError("name one config that audits, such as --config=omniopd")
        if args.repeats < 2:
            parser.error(f"--repeats={args.repeats}; a variance needs at least 2")
        workdir.use_compilation_cache()
        config = cases[0].config
        config.audit.samples = 1
        config.lock()
        alike_RC, prior_C = audited(config, args.repeats)
        lines = [spread(alike_RC, prior_C, n, a) for n in SAMPLES for a in ALPHAS]
        print(table(lines))
        if args.page:
            args.page.parent.mkdir(parents=True, exist_ok=True)
            args.page.write_text(page(lines, alike_RC, prior_C, config, words))


if __name__ == "__main__":
    main()
