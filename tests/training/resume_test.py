"""Runs that are killed or told to end, in real processes, and go on."""

import contextlib
import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

import runs

pytestmark = pytest.mark.slow

PATIENCE = 300  # seconds a child process may take to the next event
STEPS = 24
LONG = runs.EVERYTHING | {"steps": STEPS, "log__check_sampler_every_steps": 0}
# A weight that remembers: what earlier updates left decides what counts.
RULE = "window=1, exempt=0"  # rollouts end soon
REMEMBERED = (
    f"--config.memory.minima=dict(function='kat.minima', capacity=16, {RULE})",
    "--config.loss.opd.weights=dict(before=dict(function='kat.before_agreement', "
    f"memory='minima', patience=1, warmup_steps=2, least=4, {RULE}))",
)


def start(models, cache, directory) -> subprocess.Popen:
    words = [*runs.flags(models, **LONG), *REMEMBERED]
    config = f"--config={runs.ROOT / 'configs' / 'stableopd.py'}"
    log = (directory.parent / "log.txt").open("a")
    return subprocess.Popen(
        runs.command("main", config, f"--workdir={directory}", *words),
        env=runs.environment(cache),
        cwd=directory.parent,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def wait_until(child: subprocess.Popen, happened) -> None:
    """Returns as soon as ``happened()`` or the child has ended."""
    began = time.monotonic()
    while child.poll() is None and not happened():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.002)


def reached(directory: Path) -> int:
    with contextlib.suppress(IndexError):
        return runs.updates(directory)[-1]["step"]
    return 0


@pytest.fixture(scope="module")
def uninterrupted(models, cache, tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    child = start(models, cache, directory)
    assert child.wait(PATIENCE) == 0, (directory.parent / "log.txt").read_text()
    return directory


@pytest.fixture(scope="module")
def interrupted(models, cache, tmp_path_factory):
    """(directory, return codes, step seen at each): stopped six times, then "
    "finished."""
    directory = tmp_path_factory.mktemp("interrupted") / "run"
    # At step 0 the process dies in or after its first evaluation.
    steps = [0, *sorted(random.Random(0).sample(range(1, STEPS - 3), 4))]
    ends = []
    for number, target in enumerate(steps):
        child = start(models, cache, directory)
        if target:
            wait_until(child, lambda: reached(directory) >= target)  # noqa: B023
        else:
            wait_until(child, (directory / "samples.jsonl").exists)
        child.send_signal(signal.SIGKILL)
        ends.append((child.wait(PATIENCE), reached(directory)))
        if number == 2:
            before = reached(directory)
            child = start(models, cache, directory)
            wait_until(child, lambda: reached(directory) > before)  # noqa: B023
            child.send_signal(signal.SIGTERM)
            ends.append((child.wait(PATIENCE), reached(directory)))
            saved = [int(p.name) for p in (directory / "checkpoints").glob("[0-9]*")]
            ends[-1] += (max(p for p in saved),)
    child = start(models, cache, directory)
    ends.append((child.wait(PATIENCE), reached(directory)))
    return directory, ends, (directory.parent / "log.txt").read_text()


def test_sigterm_saves_the_step_in_hand_and_ends_well(interrupted):
    _, ends, log = interrupted
    (code, step, saved) = next(end for end in ends if len(end) == 3)
    assert code == 75
    assert saved == step
    assert f"stopped at step {step}; the same command continues" in log
    assert f"resumed from step {step}" in log


def test_a_killed_run_ends_as_if_it_had_not_been(interrupted, uninterrupted):
    directory, ends, log = interrupted
    killed = [end for end in ends if end[0] == -signal.SIGKILL]
    assert len(killed) == 5, (ends, log)
    assert ends[-1] == (0, STEPS), log
    rows, expected = (
        [runs.plain(row) for row in runs.updates(path)]
        for path in (directory, uninterrupted)
    )
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows == expected
    assert runs.same_weights(directory, uninterrupted)
    one, two = (
        runs.rows(path / "samples.jsonl") for path in (directory, uninterrupted)
    )
    assert one == two
    one, two = (
        (path / "evaluation.json").read_bytes() for path in (directory, uninterrupted)
    )
    assert one == two
    one, two = (
        json.loads((path / "summary.json").read_text())
        for path in (directory, uninterrupted)
    )
    for key in ("before", "after", "tokens_sampled", "steps"):
        assert one[key] == two[key], key


def test_evaluations_share_the_line_of_their_step(uninterrupted):
    rows = runs.updates(uninterrupted)
    at = [row["step"] for row in rows if "eval/reverse_kl" in row]
    assert at == list(range(4, STEPS + 1, 4))  # and the one after the run
    assert all("loss" in row for row in rows)


@pytest.mark.parametrize(
    "signals", [[signal.SIGHUP], [signal.SIGINT, signal.SIGINT]], ids=["hup", "int"]
)
def test_hangups_and_impatience_lose_no_update(signals, models, cache, tmp_path):
    child = start(models, cache, tmp_path / "run")
    wait_until(child, lambda: reached(tmp_path / "run") >= 5)
    for number in signals:
        child.send_signal(number)
        time.sleep(0.05)
    assert child.wait(PATIENCE) == 75
    saved = [int(p.name) for p in (tmp_path / "run" / "checkpoints").glob("[0-9]*")]
    assert max(saved) == reached(tmp_path / "run")


def test_a_reader_that_leaves_ends_nothing(models, cache, tmp_path):
    words = runs.flags(models, steps=2)
    config = f"--config={runs.ROOT / 'configs' / 'opd.py'}"
    child = subprocess.Popen(
        runs.command("main", config, f"--workdir={tmp_path / 'run'}", *words),
        env=runs.environment(cache),
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    child.stdout.close()
    assert child.wait(PATIENCE) == 0
    assert (tmp_path / "run" / "report.html").exists()
