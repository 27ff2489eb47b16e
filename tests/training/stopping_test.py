"""What ends a loop, a signal or a failure, at every place; nothing is computed."""

import signal
import types

import numpy as np
import pytest

import runs
from jopd.setup import config as configs
from jopd.training import control, observe, state
from jopd.training import loop as train


class Saver:
    """What was saved: step -> (counters of then, metric)."""

    def __init__(self):
        self.saved = {}

    def save(self, at, state, record, metric=None):
        assert at == state["train"].step
        self.saved[at] = dict(record), metric

    def judge(self, at, metric):
        self.saved[at] = self.saved[at][0], metric

    steps = lambda self: list(self.saved)
    seconds_since = lambda self: 0.0
    wait = lambda self: None


@pytest.fixture
def light(monkeypatch):
    """``light(start, **changes)``: (e, run, lines) of a loop that computes nothing.

    The state is the number of its updates; an evaluation gives 0.5.
    """

    def advance(e, run, done, drawn):
        run.state["train"] = types.SimpleNamespace(step=done + 1, params={})
        return train.Update(types.SimpleNamespace(fresh=None), {}, 0, {}, None)

    monkeypatch.setattr(train, "gather", lambda e, run, done: None)
    monkeypatch.setattr(train, "advance", advance)
    monkeypatch.setattr(train, "log_step", lambda *_: None)
    found = {"avg_at_k": 0.5, "reverse_kl": None}
    monkeypatch.setattr(observe, "measure", lambda *_: found)
    monkeypatch.setattr(state, "finite", lambda _: True)

    def made(start=0, saver=None, record=(), **changes):
        c = configs.base_config()
        c.update_from_flattened_dict({"steps": 3, "checkpoint.every_steps": 0})
        c.update_from_flattened_dict(changes)
        lines = {}
        write = lambda at, row: lines.setdefault(at, {}).update(row)
        run = types.SimpleNamespace(
            state={"train": types.SimpleNamespace(step=start, params={})},
            record={"wall_seconds": 0.0, "before": found} | dict(record),
            saver=saver or Saver(),
            writer=types.SimpleNamespace(write=write),
        )
        return types.SimpleNamespace(config=c, terms=()), run, lines

    return made


def raised_while(patch, module, name, at_call: int = 1, number=signal.SIGTERM):
    """``module.name`` as it is, but a signal comes in its call ``at_call``."""
    whole, calls = getattr(module, name), []

    def signalled(*given):
        calls.append(given)
        if len(calls) == at_call:
            signal.raise_signal(number)
        return whole(*given)

    patch.setattr(module, name, signalled)
    return calls


def stopped(e, run):
    with control.Interrupt() as interrupt, pytest.raises(control.Stop):
        train.train(e, run, 0.0, interrupt)
    return run.saver.saved


@pytest.mark.parametrize("where", ["log_step", "advance"])
def test_what_fails_in_an_update_costs_none_of_those_before(light, monkeypatch, where):
    whole = getattr(train, where)

    def broken(e, run, done, *rest):
        if done == 1:
            raise OSError("a broken pool")
        return whole(e, run, done, *rest)

    monkeypatch.setattr(train, where, broken)
    e, run, _ = light()
    with control.Interrupt() as interrupt, pytest.raises(OSError, match="broken pool"):
        train.train(e, run, 0.0, interrupt)
    assert list(run.saver.saved) == [2 if where == "log_step" else 1]


def test_an_update_is_whole_before_anything_looks_at_it(models, monkeypatch):
    """A checkpoint of then has teachers, buffer and counters of one step."""
    c = runs.config(models, loss={})
    mask_BT = np.ones((2, 3), bool)
    batch = types.SimpleNamespace(mask_BT=mask_BT)
    got = types.SimpleNamespace(batch=batch, fresh=None, facts={})
    after = types.SimpleNamespace(step=1, params="new")
    run = types.SimpleNamespace(
        state={
            "train": types.SimpleNamespace(step=0, params="old", memory={}),
            "buffer": "old",
            "teachers": {"ema": "old"},
        },
        record={"tokens_sampled": 0, "teacher_tokens": 0, "gates": {}},
        stages=types.SimpleNamespace(
            prepare=lambda *_: None, update=lambda *_: (after, {}, {})
        ),
    )
    e = types.SimpleNamespace(config=c, frozen={}, teachers={}, terms=())
    move = lambda teachers, old, params, at, opened: {"ema": params}
    monkeypatch.setattr(train.moving, "pass_gates", lambda *_: ({"g": 1}, {}, {}))
    monkeypatch.setattr(train.moving, "move", move)
    monkeypatch.setattr(observe, "teacher_tokens", lambda *_: 6)

    def broken(*_):
        raise OSError("a verifier of one's own")

    monkeypatch.setattr(observe, "check_ratio", broken)
    with pytest.raises(OSError, match="of one's own"):
        train.advance(e, run, 0, train.Drawn("new", got, {}))
    assert run.state == {"train": after, "buffer": "new", "teachers": {"ema": "new"}}
    assert run.record == {"tokens_sampled": 0, "teacher_tokens": 6, "gates": {"g": 1}}


@pytest.mark.parametrize("where", ["an update", "its evaluation"])
def test_a_signal_puts_an_evaluation_off_not_out(light, monkeypatch, where):
    with monkeypatch.context() as patch:
        if where == "an update":
            raised_while(patch, train, "advance", 2)
            measured = raised_while(patch, observe, "measure", 9)
        else:
            measured = raised_while(patch, observe, "measure", 1)
        e, run, lines = light(**{"eval.every_steps": 2})
        saver = Saver()
        saver.saved = stopped(e, run)
        assert len(measured) == (where == "its evaluation")
    assert list(saver.saved) == [2] and saver.saved[2][1] is None
    assert lines[2] == {}
    e, run, lines = light(2, saver, saver.saved[2][0], **{"eval.every_steps": 2})
    with control.Interrupt() as interrupt:
        train.train(e, run, 0.0, interrupt)
    assert lines == {2: {"eval/avg_at_k": 0.5}, 3: {}}
    assert [metric for _, metric in saver.saved.values()] == [0.5, None]
    assert "unmeasured" not in saver.saved[3][0]


def test_a_checkpoint_saved_after_its_evaluation_has_its_metric(light, monkeypatch):
    raised_while(monkeypatch, train, "gather", 3)
    e, run, _ = light(**{"eval.every_steps": 2})
    assert stopped(e, run)[2][1] == 0.5


def test_a_signal_in_the_last_update_ends_the_run_saved(light, monkeypatch):
    raised_while(monkeypatch, train, "advance", 3)
    e, run, _ = light()
    assert list(stopped(e, run)) == [3]


def test_a_signal_right_behind_another_does_not_keep_from_saving():
    with control.Interrupt() as interrupt:
        with pytest.raises(control.Stop):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # nothing is held here
        with pytest.raises(control.Stop):
            interrupt.check()


@pytest.mark.parametrize("saved, where", [([3, 12], "at step 12"), ([], "before its")])
def test_a_run_stopped_as_it_opens_says_where_it_stands(saved, where, tmp_path, capsys):
    for at in saved:
        (tmp_path / "checkpoints" / str(at)).mkdir(parents=True)
    at = saved[-1] if saved else None
    assert train.stopped(None, tmp_path) == {"interrupted": at}
    assert f"stopped {where}" in capsys.readouterr().out
