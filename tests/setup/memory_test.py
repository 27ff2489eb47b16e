"""What a run holds, said from shapes, beside what it then really holds."""

import dataclasses

import jax
import pytest

import runs
from jopd.models import cache as caches
from jopd.models import hf, sharding
from jopd.setup import cast, experiment, memory, summary
from jopd.setup.memory import Part, Plan
from jopd.teachers import moving
from jopd.training import state, writers

G, M = 2**30, 2**20


def on_first(arrays) -> int:
    """Bytes of arrays that lie on the first device."""
    shards = (shard for array in arrays for shard in array.addressable_shards)
    return sum(s.data.nbytes for s in shards if s.device == jax.local_devices()[0])


CASES = {
    "plain": {},
    "split": dict(mesh__fsdp=2, mesh__data=1),
    "tensor": dict(mesh__tensor=2, mesh__data=1),
    "sgd": dict(optimizer__name="sgd", teacher__quantize="int8"),
    "muon": dict(optimizer__name="muon", teacher__dtype="bfloat16"),
    "adapter": dict(student__lora__rank=2, student__dtype="bfloat16"),
    "shared": dict(student__lora__rank=2, loss__opd__other="reference"),
    "moving": dict(teachers__slow=dict(weights="ema", context="{question}")),
    "projected": dict(
        optimizer__project=dict(rank=3, after=0.5), mesh__fsdp=2, mesh__data=1
    ),
    "adafactor": dict(optimizer__name="adafactor", mesh__fsdp=2, mesh__data=1),
}


@pytest.mark.parametrize("name", CASES)
def test_parameters_and_optimizer_are_what_a_run_then_holds(models, name):
    """All arrays that come to life until the first update, but counters."""
    changes = CASES[name]
    config = runs.config(
        models, **{k: v for k, v in changes.items() if "slow" not in k}
    )
    if name == "moving":
        config.unlock()
        config.teachers.slow = config.teacher.copy_and_resolve_references()
        config.teachers.slow.update(changes["teachers__slow"])
        config.loss.slow = dict(signal="reverse_kl", other="slow")
        config.lock()
    before = {id(array) for array in jax.live_arrays()}
    e = experiment.build(config)
    _, transform = memory.builders.build_optimizer(config)
    first = state.first_state(e, transform)
    moved = moving.start(e.teachers, e.params)
    held = [array for array in jax.live_arrays() if id(array) not in before]
    exact = {"student", "teacher", "adapter", "optimizer", "slow", "reference"}
    planned = sum(part.most for part in e.memory.parts if part.name in exact)
    assert 0 <= on_first(held) - planned <= 64, [a.shape for a in held]
    kept = jax.tree.leaves((first.params, first.opt_state, moved))
    assert e.memory.host == pytest.approx(sum(x.nbytes for x in kept), abs=16)
    gradient = [part for part in e.memory.parts if part.name == "gradient"]
    assert gradient[0].most == on_first(jax.tree.leaves(first.params))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", ["parity_mixtral", "parity_qwen3_moe", "parity_olmo2"])
def test_every_family_is_held_as_it_is_said(name, int8):
    path = runs.ROOT / "tests" / "fixtures" / name
    shape = dataclasses.replace(hf.load_config(path), int8=int8)
    weights = cast.Weights(str(path), "bfloat16", int8, False)
    mesh = sharding.make_mesh(data=1, fsdp=2)
    held = cast._read(weights, {}, mesh)
    said = memory.abstract(shape, weights)
    kinds = lambda tree: jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)
    assert kinds(held) == kinds(said)
    assert memory.per_device(said, mesh) == on_first(jax.tree.leaves(held))


def test_the_cache_is_that_of_the_longest_rollouts(models):
    changes = dict(eval__batch_rows=2, rollout__max_new_tokens=40)
    e = experiment.build(runs.config(models, **changes))
    (cache,) = [part for part in e.memory.parts if part.name == "KV cache"]
    rows = 4 // 2  # two prompts, two rollouts of each, two devices
    slots = e.widths.given[-1] + 40
    shape = e.models["student"].config
    real = caches.empty(shape, rows, slots)
    assert cache.most == real.k.nbytes + real.v.nbytes
    assert cache.least == cache.most  # the first block is all that there is
    assert "rollout.at_once" in cache.keys
    blocks = dict(changes, rollout__block_tokens=8, rollout__at_once=2)
    e = experiment.build(runs.config(models, **blocks))
    (cut,) = [part for part in e.memory.parts if part.name == "KV cache"]
    assert cut.most == cache.most and cut.least < cache.least
    measured = experiment.build(runs.config(models, eval__batch_rows=8))
    (wide,) = [part for part in measured.memory.parts if part.name == "KV cache"]
    assert wide.keys.startswith("eval.batch_rows")
    longer = changes | dict(eval__batch_rows=4, eval__max_new_tokens=60)
    longer = experiment.build(runs.config(models, **longer))
    (long,) = [part for part in longer.memory.parts if part.name == "KV cache"]
    assert long.keys.endswith("eval.max_new_tokens") and long.most > cache.most


def test_a_teacher_that_draws_along_has_a_cache_of_its_own(models):
    company = {"rollout__behavior__function": "blend"}
    alone, both = (
        experiment.build(runs.config(models, eval__batch_rows=2, **more))
        for more in ({}, company)
    )
    found = [
        next(part for part in e.memory.parts if part.name == "KV cache").most
        for e in (alone, both)
    ]
    slots = both.widths.given[-1] + both.config.rollout.max_new_tokens
    beside = caches.empty(both.models["teacher"].config, 2, slots)
    assert found[1] - found[0] == beside.k.nbytes + beside.v.nbytes


def test_an_evaluation_trains_nothing(models):
    e = experiment.build(runs.config(models), train=False)
    names = {part.name for part in e.memory.parts}
    assert names == {"student", "teacher", "KV cache"} and e.memory.host == 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(mesh__fsdp=2, mesh__data=1),
        dict(mesh__tensor=2, mesh__data=1),
        dict(student__dtype="bfloat16"),
        dict(student__dtype="bfloat16", mesh__fsdp=2, mesh__data=1),
        dict(student__dtype="bfloat16", mesh__tensor=2, mesh__data=1),
    ],
)
def test_the_student_as_it_writes_is_another_copy_where_it_is_one(models, changes):
    """Leaves that are cast or moved, beside those that rest as they are read."""
    e = experiment.build(runs.config(models, **changes))
    planned = sum(p.most for p in e.memory.parts if p.name == "student as it writes")
    rests = {shard_of(x) for x in jax.tree.leaves(e.params)}
    read = jax.tree.leaves(writers.placed(e, "student", e.params))
    new = [x for x in read if shard_of(x) not in rests]
    assert planned == on_first(new)
    assert bool(planned) == bool(
        changes and changes != dict(mesh__tensor=2, mesh__data=1)
    )


def shard_of(array) -> int:
    """Where the bytes of an array on the first device lie."""
    (first,) = (
        shard.data.unsafe_buffer_pointer()
        for shard in array.addressable_shards
        if shard.device == jax.local_devices()[0]
    )
    return first


# What comes of it.


def parts(**sizes) -> tuple[Part, ...]:
    phases = {"cache": "rollout", "gradient": "update", "logits": "update"}
    return tuple(
        Part(name, size, size, phases.get(name, ""), f"key.of.{name}")
        for name, size in sizes.items()
    )


SIZES = parts(student=2 * G, optimizer=4 * G, cache=3 * G, gradient=2 * G, logits=M)


def test_phases_follow_each_other():
    plan = Plan(SIZES, 0, None)
    assert plan.most() == plan.least() == 9 * G
    more = Plan((*SIZES, *parts(gradient=G)), 0, None)
    assert more.most() == 9 * G + M


def test_what_cannot_fit_is_refused_with_the_largest_parts_and_their_keys():
    with pytest.raises(ValueError) as caught:
        memory.check(Plan(SIZES, 0, 8 * G), "NVIDIA H0", 0, None)
    said = str(caught.value)
    assert said.startswith(
        "the run needs at least 9.0 GiB on each device, and NVIDIA H0 has 8.0 GiB: "
        "optimizer 4.0 GiB (key.of.optimizer), cache 3.0 GiB (key.of.cache), "
    )
    assert "student.remat" in said and "logits" not in said
    assert memory.check(Plan(SIZES, 0, 9 * G), "NVIDIA H0", 0, None) == []


def test_what_may_not_fit_is_said():
    long = Part("cache", 5 * G, 3 * G, "rollout", "key.of.cache")
    plan = Plan((*SIZES[:2], long), 0, 10 * G)
    (said,) = memory.check(plan, "NVIDIA H0", 0, None)
    assert "may need 11.0 GiB" in said and "if rollouts are that long: cache" in said


def test_on_a_cpu_it_is_a_warning():
    plan = Plan(SIZES, 2 * G, None)
    assert memory.check(plan, "cpu", 2, 20 * G) == []
    (said,) = memory.check(plan, "cpu", 2, 20 * G - 1)
    assert "needs at least 20.0 GiB and 20.0 GiB of memory are free" in said
    assert memory.check(plan, "cpu", 2, None) == []
    free = memory.free_on_host()
    assert free is None or free > M


def test_the_table_has_a_line_of_it(models):
    e = experiment.build(runs.config(models))
    shown = dict(summary.summary_rows(e))["memory"]
    assert shown.startswith("0.") and "a device, activations apart: student 0." in shown
    for name in ("teacher", "optimizer", "gradient", "KV cache", "logits of a chunk"):
        assert f", {name} " in shown
    assert shown.endswith(", checkpoint copy on the host 0.0")
    assert memory.line(Plan(SIZES, 0, 80 * G)) == (
        "9.0 GiB a device, activations apart, of 80.0 GiB: student 2.0, optimizer 4.0, "
        "cache 3.0, gradient 2.0, logits 0.0"
    )


def test_the_logits_are_those_of_a_chunk_or_of_all_tokens(models):
    changes = dict(objective__chunk_tokens=10, optimizer__accumulate=2)
    for tokens, found in ((10, 10), (10_000, None)):
        changes["objective__chunk_tokens"] = tokens
        e = experiment.build(runs.config(models, **changes))
        (part,) = [p for p in e.memory.parts if p.name == "logits of a chunk"]
        # Two devices and two models; one row of each device in a micro-batch.
        found = found or e.widths.rows[-1]
        assert part.most == found * e.shape.vocabulary * 4 * 2


def test_a_run_that_cannot_fit_ends_before_anything_is_loaded(models, monkeypatch):
    monkeypatch.setattr(memory, "limit_of", lambda device: 2**10)
    loaded = []
    monkeypatch.setattr(experiment, "load_models", lambda *_: loaded.append(1))
    with pytest.raises(ValueError, match=r"at least 0\.\d MiB on each device, and cpu"):
        experiment.build(runs.config(models))
    assert not loaded
