"""The gradient study: its statistics, its words, and one small study of a real pair."""

import functools
import sys
import types

import numpy as np
import pytest

import runs

sys.path.insert(0, str(runs.ROOT / "tools"))  # a folder of commands, not a package
import gradients
from studying import noise

from jopd.setup import shipped, validation


def drawn(rng, count: int, size: int, mean=0.0) -> np.ndarray:
    return (rng.standard_normal((count, size)) + mean).astype(np.float32)


def sums(grads) -> noise.Sums:
    return functools.reduce(noise.added, grads, noise.Sums())


def signal_to_noise(grads) -> float:
    return noise.signal_to_noise(sums(grads))


def test_signal_to_noise_is_what_the_vectors_were_drawn_with():
    """|mu|^2 / (P sigma^2) = 0.1, also for six batches, where |mean|^2 is 2.7 times
    too large."""
    rng, size = np.random.default_rng(0), 4000
    mean = np.sqrt(0.1) * np.where(rng.random(size) < 0.5, 1, -1)
    found = signal_to_noise(drawn(rng, 300, size, mean))
    assert found == pytest.approx(0.1, rel=0.03)
    few = [signal_to_noise(drawn(rng, 6, size, mean)) for _ in range(20)]
    assert np.mean(few) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name", ["kat_stop", "trb", "adwin", "tropd"])
def test_plain_rollouts_are_the_students_alone(name):
    plain = gradients.plain_config(shipped.load(name))
    validation.validate(plain)
    c = plain.rollout
    assert not (c.early_stop.function or c.behavior.function or c.prefix.source)
    assert not c.horizon


def test_noise_alone_is_no_signal():
    rng = np.random.default_rng(1)
    few = [signal_to_noise(drawn(rng, 6, 4000)) for _ in range(20)]
    assert 0 <= np.mean(few) < 0.01  # without the correction 1 / 6
    assert np.isnan(signal_to_noise(np.zeros((3, 5))))
    assert signal_to_noise(np.ones((4, 4))) == np.inf


def test_a_ceiling_is_what_the_noise_of_a_mean_leaves():
    """cos(mean, mu)^2 = snr / (snr + 1 / n), found without knowing mu."""
    rng, size = np.random.default_rng(2), 4000
    mean = np.sqrt(0.1) * np.where(rng.random(size) < 0.5, 1, -1)
    found = sums(drawn(rng, 20, size, mean))
    assert noise.ceiling(found) == pytest.approx((0.1 / 0.15) ** 0.5, abs=0.02)
    assert noise.cosine(found.total, mean) == pytest.approx(0.816, abs=0.02)
    assert noise.ceiling(sums(drawn(rng, 20, size))) < 0.3
    assert noise.ceiling(sums(np.zeros((2, 3)))) == 0
    assert noise.ceiling(sums(np.ones((2, 3)))) == 1


def test_numbers_of_known_gradients():
    right, up = np.float32([[3, 0]] * 3), np.float32([[0, 1]] * 3)
    slanted = np.float32([[1, 1], [2, 2], [3, 3]])
    found = noise.measured(iter(slanted), (sums(right), sums(-up)))
    half = np.sqrt(0.5)
    assert found["forward"] == pytest.approx((half, 0), abs=1e-6)
    assert found["reverse"] == pytest.approx((-half, 0), abs=1e-6)
    assert found["mean"] == pytest.approx(2 * np.sqrt(2))
    assert found["batch"] == pytest.approx(2 * np.sqrt(2))
    assert found["snr"] == pytest.approx((8 - 2 / 3) / 2)  # v = 2
    none = noise.measured(iter(0 * slanted), (sums(right), sums(up)))
    assert np.isnan(none["forward"][0]) and np.isnan(none["snr"])


def read(*words):
    rest, cases = gradients.read_words(list(words))
    return rest, {case.name: case.config for case in cases}


def test_words_before_the_first_config_are_everybodys():
    rest, cases = read(
        "--batches=3",
        "--config.student.path=s",
        "--config=opd",
        "--config=omniopd",
        "--config.loss.chunks.weights.rate.alpha=2",
        "--page=p.md",
        "--config=opd",
        "--config.seed=3",
    )
    assert rest == ["--batches=3", "--page=p.md"]
    own = "loss.chunks.weights.rate.alpha=2"
    assert list(cases) == ["opd", f"omniopd, {own}", "opd, seed=3"]
    assert {config.student.path for config in cases.values()} == {"s"}
    assert cases[f"omniopd, {own}"].loss.chunks.weights.rate.alpha == 2
    assert [config.seed for config in cases.values()] == [0, 0, 3]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config=odp"], "no config is named 'odp'"),
        (["--config=opd", "--config.sed=3"], "unknown key --config.sed"),
        (
            ["--config=opd", "--config=sft", "--config.student.path=x"],
            "sft, student.path=x has student.path='x', opd 'demo:student'",
        ),
        (
            ["--config=opd", "--config=sft", "--config.teacher.path=x"],
            "has teacher.path='x', opd 'demo:teacher'",
        ),
        (
            ["--config.init_from.run=r", "--config=opd"],
            "init_from.run='r', but student.path",
        ),
    ],
)
def test_mistakes_are_one_line_before_any_work(words, said):
    with pytest.raises(ValueError, match=said) as error:
        gradients.check(gradients.read_words(words)[1])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["batches", "reference"])
def test_one_batch_has_no_variance(name, capsys):
    with pytest.raises(SystemExit):
        gradients.arguments([f"--{name}=1"])
    assert f"--{name}=1; a variance needs at least 2" in capsys.readouterr().err


def collected(*rows, width=4):
    tokens_BT = np.zeros((len(rows), width), np.int32)
    for row, tokens in zip(tokens_BT, rows):
        row[: len(tokens)] = tokens
    rollout = types.SimpleNamespace(
        tokens_BT=tokens_BT, length_B=np.array([len(row) for row in rows])
    )
    return types.SimpleNamespace(fresh=types.SimpleNamespace(rollout=rollout))


def test_rollouts_are_compared_without_their_padding():
    gold = types.SimpleNamespace(fresh=None)
    of = lambda *got: types.SimpleNamespace(batches=[(one, None) for one in got])
    plain = of(collected([1, 2], [3]), collected([4], [5]))
    wide = of(collected([1, 2], [3], width=9), collected([4], [5]))
    assert gradients.same(wide, plain) == "same"
    half = of(collected([1, 2], [3, 0]), collected([4], [5]))
    assert gradients.same(half, plain) == "1 of 2 same"
    assert gradients.same(of(gold, gold), plain) == "own"


def test_no_gradient_is_a_dash_and_the_last_line():
    row = gradients.Row("a", "t", 1.0, 2.0, (0.25, 0.125), (-0.5, 0.0), 0.5, "same")
    none = row._replace(forward=(np.nan,) * 2, reverse=(np.nan,) * 2, snr=np.nan)
    first, last = gradients.table([row, none]).splitlines()[2:]
    assert first == "| a | t | 1 | 2 | 0.25 ± 0.12 | -0.50 ± 0.00 | 0.500 | same |"
    assert last == "| a | t | 1 | 2 | – | – | – | same |"


@pytest.mark.slow
def test_a_small_study_measures_terms_as_the_librarys_own_signals(models):
    """``opd`` is the library's policy gradient on the same rollouts, but for rounding;
    a student is where its reference is, so that term has no gradient yet."""
    words = [f"--config.{key}={value}" for key, value in runs.SMALL.items()]
    words += [
        f"--config.{name}.path={models / name}" for name in ("student", "teacher")
    ]
    words += ["--batches=2", "--reference=3", "--prompts=2", "--group=4"]
    words += ["--config=opd", "--config=stableopd"]
    rest, cases = gradients.read_words(words)
    args = gradients.arguments(rest)
    rows, plain, references = gradients.study(cases, args)
    assert [len(one.norms) for one in references] == [3, 3]
    found = {(row.config, row.term): row for row in rows}
    ours = found[gradients.OURS, "policy_gradient"]
    theirs = found["opd", "opd"]
    for one, two in zip(theirs[2:-1], ours[2:-1], strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-6)
    terms = [term for config, term in found if config == "stableopd"]
    assert sorted(terms) == ["all", "gold", "opd", "reference"]
    assert (gradients.OURS, "all") not in found
    assert found["stableopd", "reference"].batch < 1e-5 * ours.batch
    assert {row.rollouts for row in rows} == {"same"}
    text = gradients.page(rows, plain, references, words, args)
    assert gradients.table(rows) in text and "{" not in text
