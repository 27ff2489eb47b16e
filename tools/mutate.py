"""Plants one bug at a time in a copy of the package and sees whether the tests notice.

    python tools/mutate.py                       # all rows, two at a time
    python tools/mutate.py --only sampling       # rows whose file or kernel matches

Prints a markdown table. Exits 1 if a bug survives, if a row's text no longer occurs
exactly once in its file, or if the tests fail without any bug. A new kernel adds a row.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("jopd", "tests", "configs", "pyproject.toml")


class Mutation(NamedTuple):
    """In ``jopd/<file>``, ``old`` becomes ``new``; then ``tests/<test>`` must fail."""

    kernel: str
    bug: str
    file: str
    old: str
    new: str
    test: str


def _rows(module: str, *rows: tuple[str, str, str, str]) -> list[Mutation]:
    """Rows (kernel, bug, old, new) of one module, tested by the file of its name."""
    test = f"{module.replace('/', '_')}_test.py"
    return [
        Mutation(k, bug, f"{module}.py", old, new, test) for k, bug, old, new in rows
    ]


MUTATIONS = [
    *_rows(
        "divergences",
        (
            "forward_kl",
            "directions swapped",
            "    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)\n"
            "    return _kl(log_t, log_s)\n",
            "    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)\n"
            "    return _kl(log_s, log_t)\n",
        ),
        (
            "reverse_kl",
            "student's weight detached",
            "    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)\n"
            "    return _kl(log_s, log_t)\n",
            "    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)\n"
            "    p = jax.lax.stop_gradient(jnp.exp(log_s))\n"
            "    return jnp.sum(p * (log_s - log_t), axis=-1)\n",
        ),
        (
            "jsd",
            "weights of the two KLs swapped",
            "beta * _kl(log_t, log_m) + (1.0 - beta) * _kl(log_s, log_m)",
            "(1.0 - beta) * _kl(log_t, log_m) + beta * _kl(log_s, log_m)",
        ),
        (
            "jsd",
            "weights of the mixture swapped",
            "log_m = _log_mixture(log_t, log_s, beta)",
            "log_m = _log_mixture(log_s, log_t, beta)",
        ),
        (
            "jsd",
            "mixture detached in one of the two KLs",
            "value = beta * _kl(log_t, log_m) +",
            "value = beta * _kl(log_t, jax.lax.stop_gradient(log_m)) +",
        ),
        (
            "jsd",
            "ends of beta let through",
            "if not 0.0 < beta < 1.0:",
            "if not 0.0 <= beta <= 1.0:",
        ),
        (
            "jsd",
            "normalize divides by beta only",
            "value / (beta * (1.0 - beta)) if normalize",
            "value / beta if normalize",
        ),
        (
            "skew_forward_kl",
            "mixture weights swapped",
            "_kl(log_t, _log_mixture(log_t, log_s, alpha))",
            "_kl(log_t, _log_mixture(log_s, log_t, alpha))",
        ),
        (
            "skew_reverse_kl",
            "the other direction",
            "_kl(log_s, _log_mixture(log_s, log_t, alpha))",
            "_kl(log_t, _log_mixture(log_s, log_t, alpha))",
        ),
        (
            "total_variation",
            "half forgotten",
            "0.5 * jnp.sum(jnp.abs(",
            "1.0 * jnp.sum(jnp.abs(",
        ),
        (
            "top_k_forward_kl",
            "tail bucket missing",
            "    return rows if tail else",
            "    return tuple(row[..., :k] for row in rows) if tail else",
        ),
        (
            "top_k_forward_kl",
            "support chosen by the other model",
            'if support == "teacher" else student_logits',
            'if support == "student" else student_logits',
        ),
        (
            "top_k_reverse_kl",
            "directions swapped",
            "tail, support)\n    return _kl(log_s, log_t)",
            "tail, support)\n    return _kl(log_t, log_s)",
        ),
        (
            "coarsen",
            "tail holds the whole row",
            "_logsumexp(others)[..., None]",
            "_logsumexp(logits)[..., None]",
        ),
        (
            "coarsen",
            "empty tail without double where",
            "jnp.where(empty[..., None], 0.0, logits), axis=-1)",
            "logits, axis=-1)",
        ),
        (
            "entropy",
            "sign",
            "return -_kl(log_p, jnp.zeros",
            "return _kl(log_p, jnp.zeros",
        ),
        (
            "cross_entropy",
            "teacher's entropy left out",
            "_kl(log_t, log_s) - _kl(log_t, jnp.zeros_like(log_t))",
            "_kl(log_t, log_s)",
        ),
        (
            "log_prob",
            "not normalised",
            "return chosen - jax.nn.logsumexp(logits, axis=-1)",
            "return chosen",
        ),
        ("nll", "sign", "return -log_prob(", "return log_prob("),
        (
            "_kl",
            "0 log 0 not taken out",
            "gap = jnp.where(present, log_p - log_q, 0.0)",
            "gap = log_p - log_q",
        ),
        (
            "_kl",
            "underflow taken as present",
            "present = p > 0.0",
            "present = p >= 0.0",
        ),
        (
            "_log_mixture",
            "no double where",
            "jnp.where(empty, 0.0, x) for x in",
            "x for x in",
        ),
        (
            "_float",
            "bfloat16 not raised to float32",
            "else x.astype(jnp.float32)",
            "else x",
        ),
        (
            "_check_shapes",
            "unequal vocabularies let through",
            "    if jnp.shape(student_logits) != jnp.shape(teacher_logits):",
            "    if jnp.ndim(student_logits) != jnp.ndim(teacher_logits):",
        ),
    ),
    *_rows(
        "estimators",
        (
            "k1",
            "sign",
            "return _float(log_p) - _float(log_q)",
            "return _float(log_q) - _float(log_p)",
        ),
        ("k2", "half forgotten", "return 0.5 * jnp.square", "return jnp.square"),
        (
            "k3",
            "ratio upside down",
            "jnp.minimum(-d, _MAX_EXPONENT)",
            "jnp.minimum(d, _MAX_EXPONENT)",
        ),
        (
            "k3",
            "d left out",
            "_MAX_EXPONENT)) + d",
            "_MAX_EXPONENT))",
        ),
        (
            "importance_ratio",
            "upside down",
            "return jnp.exp(jnp.minimum(log_ratio,",
            "return jnp.exp(jnp.minimum(-log_ratio,",
        ),
        (
            "importance_ratio",
            "gradient through the behavior policy",
            "jax.lax.stop_gradient(_float(behavior_logp))",
            "_float(behavior_logp)",
        ),
        (
            "importance_ratio",
            "overflow to inf",
            "jnp.exp(jnp.minimum(log_ratio, _MAX_EXPONENT))",
            "jnp.exp(log_ratio)",
        ),
        (
            "score_function",
            "stop_gradient missing",
            "-_float(logp) * jax.lax.stop_gradient(_float(advantage))",
            "-_float(logp) * _float(advantage)",
        ),
        ("score_function", "sign", "return -_float(logp) *", "return _float(logp) *"),
        (
            "clipped_surrogate",
            "stop_gradient missing",
            "advantage = jax.lax.stop_gradient(_float(advantage))",
            "advantage = _float(advantage)",
        ),
        (
            "clipped_surrogate",
            "sides of the clip swapped",
            "1.0 - clip_low, 1.0 + clip_high",
            "1.0 - clip_high, 1.0 + clip_low",
        ),
        (
            "clipped_surrogate",
            "optimistic instead of pessimistic",
            "jnp.minimum(ratio * advantage, clipped * advantage)",
            "jnp.maximum(ratio * advantage, clipped * advantage)",
        ),
        ("clipped_surrogate", "sign", "return -objective", "return objective"),
        (
            "clipped_surrogate",
            "dual clip on the positive side",
            "jnp.where(advantage < 0.0, bounded, objective)",
            "jnp.where(advantage > 0.0, bounded, objective)",
        ),
        (
            "_check_clips",
            "dual_clip of 1 let through",
            "1.0 < dual_clip",
            "1.0 <= dual_clip",
        ),
    ),
    *_rows(
        "sampling",
        (
            "filtered_logits",
            "temperature multiplies",
            "logits / f.temperature",
            "logits * f.temperature",
        ),
        (
            "filtered_logits",
            "temperature forgotten",
            "        logits = logits / f.temperature\n",
            "        pass\n",
        ),
        (
            "filtered_logits",
            "min-p before the temperature",
            "    if f.temperature != 1.0:\n",
            "    if f.min_p > 0.0:\n"
            "        logits = _cut(logits, _min_p_mask(logits, f.min_p))\n"
            "    if f.temperature != 1.0:\n",
        ),
        (
            "_top_k_mask",
            "k-th token itself cut",
            "return logits >= jnp.min(largest",
            "return logits > jnp.min(largest",
        ),
        (
            "_top_p_mask",
            "token that crosses top_p cut",
            "p > edge, p, 0.0",
            "p >= edge, p, 0.0",
        ),
        (
            "_top_p_mask",
            "bisection stops early",
            "fori_loop(0, 30, halve",
            "fori_loop(0, 12, halve",
        ),
        (
            "_top_p_mask",
            "mass kept is 1 - top_p",
            "enough = likelier < top_p",
            "enough = likelier < 1.0 - top_p",
        ),
        (
            "_min_p_mask",
            "absolute instead of relative",
            "logits >= jnp.max(logits, axis=-1, keepdims=True) + math.log(min_p)",
            "jax.nn.log_softmax(logits, axis=-1) >= math.log(min_p)",
        ),
        (
            "draw",
            "recorded log-prob before the filter",
            "    logits_BV = filtered_logits(logits_BV, f)\n"
            "    token_B, log_normalizer_B = _sample(uniform_B, logits_BV)\n",
            "    token_B, _ = _sample(uniform_B, filtered_logits(logits_BV, f))\n"
            "    log_normalizer_B = jax.nn.logsumexp(logits_BV, axis=-1)\n",
        ),
        (
            "draw",
            "log-prob not normalised",
            "chosen_B - log_normalizer_B",
            "chosen_B",
        ),
        (
            "log_prob",
            "filter forgotten",
            "divergences.log_prob(filtered_logits(logits, f), tokens)",
            "divergences.log_prob(logits, tokens)",
        ),
        (
            "sample",
            "padding columns have mass",
            "padding, constant_values=-jnp.inf",
            "padding, constant_values=0.0",
        ),
        (
            "sample",
            "block's own mass not taken off",
            "_first_above(mass_BL, inside_BL, target_B - before_B)",
            "_first_above(mass_BL, inside_BL, target_B)",
        ),
        (
            "sample",
            "mass before the block off by one",
            "jnp.pad(cumulative_BN[:, :-1], ((0, 0), (1, 0)))",
            "cumulative_BN",
        ),
        (
            "_first_above",
            "zero mass may be picked",
            "has_mass = mass_BN > 0.0",
            "has_mass = mass_BN >= 0.0",
        ),
        (
            "_first_above",
            "u on a boundary goes down",
            "cumulative_BN > target_B[:, None]",
            "cumulative_BN >= target_B[:, None]",
        ),
        (
            "_first_largest",
            "last of the largest",
            "lane = jnp.argmax(_take_block(blocks, block), axis=-1)",
            "lane = 127 - jnp.argmax(_take_block(blocks, block)[..., ::-1], axis=-1)",
        ),
        (
            "row_uniforms",
            "position ignored",
            "jax.random.uniform(jax.random.fold_in(key, at))",
            "jax.random.uniform(key)",
        ),
        (
            "row_uniforms",
            "one key for all rows",
            "        keys_B, position_B\n",
            "        jnp.broadcast_to(keys_B[0], keys_B.shape), position_B\n",
        ),
    ),
]


class Outcome(NamedTuple):
    """``caught_by`` names the first failing test; ``trouble``, why there is none."""

    caught_by: str
    trouble: str


def run_tests(test: str, cache: Path, mutation: Mutation | None = None) -> Outcome:
    """The outcome of one test file on a copy of the project, ``mutation`` applied."""
    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        folder = Path(name)
        for item in COPIED:
            _copy(ROOT / item, folder / item)
        if mutation is not None:
            path = folder / "jopd" / mutation.file
            text = path.read_text()
            if (count := text.count(mutation.old)) != 1:
                return Outcome("", f"text occurs {count} times in {mutation.file}")
            path.write_text(text.replace(mutation.old, mutation.new))
        return _pytest(folder, test, cache)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.exists():
        shutil.copy2(source, target)


def _pytest(folder: Path, test: str, cache: Path) -> Outcome:
    # -m pytest puts the copy first on sys.path, before an installed jopd.
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-o", "addopts="]
    command += ["-p", "no:cacheprovider", "--tb=line", f"tests/{test}"]
    # A bug changes few programs: the others come compiled from the run without any.
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return Outcome("", "survived")
    failed = re.search(r"^FAILED \S+?::(.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode == 1 and failed:
        return Outcome(failed.group(1), "")
    # A syntax or import error says nothing about the tests.
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    return Outcome("", f"pytest exit {done.returncode}: {' '.join(last)}")


def selected(only: str) -> list[Mutation]:
    return [m for m in MUTATIONS if only in m.file or only in m.kernel]


def report(mutations: list[Mutation], cache: Path, jobs: int) -> int:
    """Runs the tests without and then with each bug, prints; the exit code."""
    with ThreadPoolExecutor(jobs) as pool:
        tests = sorted({m.test for m in mutations})
        clean = list(pool.map(lambda test: run_tests(test, cache), tests))
        for test, outcome in zip(tests, clean, strict=True):
            if outcome.trouble != "survived":
                why = outcome.caught_by or outcome.trouble
                print(f"{test} fails without any bug: {why}", file=sys.stderr)
                return 1
        print("| kernel | planted bug | caught by |\n|---|---|---|", flush=True)
        outcomes = pool.map(lambda m: run_tests(m.test, cache, m), mutations)
        caught = 0
        for mutation, outcome in zip(mutations, outcomes, strict=True):
            verdict = f"`{outcome.caught_by}`" if outcome.caught_by else outcome.trouble
            name = f"{mutation.file.removesuffix('.py')}.{mutation.kernel}"
            print(f"| `{name}` | {mutation.bug} | {verdict} |", flush=True)
            caught += bool(outcome.caught_by)
    print(f"\n{caught} of {len(mutations)} planted bugs caught")
    return 0 if caught == len(mutations) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a file's or kernel's name")
    parser.add_argument("--jobs", type=int, default=2, help="test runs at a time")
    options = parser.parse_args()
    mutations = selected(options.only)
    if not mutations:
        print(f"--only={options.only} matches no row", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="mutate-cache-") as cache:
        return report(mutations, Path(cache), options.jobs)


if __name__ == "__main__":
    sys.exit(main())
