"""Checkpoints: bit-identical, the newest readable, and loud when they fail."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jopd.training import checkpoint, sums
from jopd.training.checkpoint import Checkpointer, kept_steps

ROOT = Path(__file__).resolve().parents[2]


def make_state(seed=0):
    rng = np.random.default_rng(seed)
    key = jax.random.fold_in(jax.random.key(3), seed)
    params = {
        "w": jnp.asarray(rng.normal(size=(8, 16)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=(16,)), jnp.bfloat16),
    }
    odd = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45], np.float32)
    return {
        "params": params,
        "opt": optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(params),
        "key": key,
        "keys": jax.random.split(key, 3),
        "raw_key": jax.random.key_data(key),
        "buffer": (rng.integers(0, 9, size=(4, 5)).astype(np.int64), odd),
        "half": rng.normal(size=3).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 7), np.int32),
        "numpy_scalar": np.float64(0.1 + seed),
        "step": 2**40 + seed,
        "negative": -3,
        "rate": 0.1 + seed,
        "flag": True,
        "name": "stable",
        "none": None,
    }


def bits(leaf):
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_identical(restored, state):
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert isinstance(b, jax.Array) == isinstance(a, jax.Array)
        if not isinstance(b, jax.Array):
            assert type(a) is type(b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)
        assert np.shape(a) == np.shape(b)
        assert bits(a) == bits(b)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    ckpt = Checkpointer(folder, keep_last=3)
    for step in (1, 2, 3):
        ckpt.save(step, make_state(step), {"seen": step}, metric=-float(step))
    ckpt.close()
    return folder


@pytest.fixture
def saved(original, tmp_path):
    """Three checkpoints, of steps 1, 2 and 3, in a folder of their own."""
    return Path(shutil.copytree(original, tmp_path / "ckpt"))


def test_restores_every_kind_of_leaf_bit_for_bit(saved):
    ckpt = Checkpointer(saved)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step, state, meta = ckpt.restore(make_state(99))
    assert (step, meta) == (3, {"seen": 3})
    assert_identical(state, make_state(3))
    ckpt.close()


def test_restores_a_named_step_and_the_best(saved):
    ckpt = Checkpointer(saved)
    assert ckpt.best_steps()[0] == 1
    assert_identical(ckpt.restore(make_state(), step=1).state, make_state(1))
    with pytest.raises(ValueError, match=r"no checkpoint of step 7 .*\[1, 2, 3\]"):
        ckpt.restore(make_state(), step=7)
    ckpt.close()


def test_restores_into_shape_dtype_structs(tmp_path):
    state = {"w": jnp.arange(6.0), "key": jax.random.key(1)}
    ckpt = Checkpointer(tmp_path)
    ckpt.save(1, state, {})
    template = jax.eval_shape(lambda: state)
    assert_identical(ckpt.restore(template).state, state)
    ckpt.close()


def test_nothing_saved_restores_none(tmp_path):
    ckpt = Checkpointer(tmp_path / "new" / "deep")
    assert ckpt.restore(make_state()) is None
    assert ckpt.steps() == [] and ckpt.best_steps() == []
    ckpt.close()


def test_a_saved_state_may_be_donated_or_changed_in_place(tmp_path):
    device = jnp.arange(2_000_000.0)
    host = np.arange(2_000_000.0)
    want = np.asarray(device).copy(), host.copy()
    ckpt = Checkpointer(tmp_path)
    ckpt.save(1, {"device": device, "host": host}, {})
    host[:] = -1
    device = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(device)
    restored = ckpt.restore({"device": device, "host": host}).state
    np.testing.assert_array_equal(restored["device"], want[0])
    np.testing.assert_array_equal(restored["host"], want[1])
    ckpt.close()


@pytest.mark.parametrize(
    "keep_last, keep_best, best_mode, want",
    [
        (1, 0, "max", {6}),
        (2, 2, "max", {2, 5, 6}),
        (1, 2, "max", {6, 2, 5}),  # 2 and 5 tie above 1
        (1, 1, "min", {6, 3}),
        (9, 9, "max", {1, 2, 3, 4, 5, 6}),
    ],
)
def test_kept_steps(keep_last, keep_best, best_mode, want):
    metrics = {1: 0.5, 2: 0.9, 3: 0.1, 4: None, 5: 0.9, 6: 0.2}
    got = kept_steps(
        metrics, keep_last=keep_last, keep_best=keep_best, best_mode=best_mode
    )
    assert got == want


def test_keeps_last_and_best_also_across_a_restart(tmp_path):
    state = {"w": jnp.zeros(2)}
    rewards = {1: 0.1, 2: 0.9, 3: 0.2, 4: float("nan"), 5: 0.3, 6: None}
    for steps in ((1, 2, 3), (4, 5, 6)):
        ckpt = Checkpointer(tmp_path, keep_last=2, keep_best=1)
        for step in steps:
            ckpt.save(step, state, {}, rewards[step])
        ckpt.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "5", "6"]
    assert Checkpointer(tmp_path).best_steps()[0] == 2


# What a full disk, a torn copy or a careless rm can do to the newest checkpoint.
def _remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _data_files(step_dir):
    return [p for p in step_dir.glob("state/**/d/*") if p.is_file()]


DAMAGES = {
    "state folder removed": lambda d: _remove(d / "state"),
    "meta folder removed": lambda d: _remove(d / "meta"),
    "manifest removed": lambda d: _remove(d / "state" / "manifest.ocdbt"),
    "manifest truncated": lambda d: _truncate(d / "state" / "manifest.ocdbt"),
    "arrays truncated": lambda d: [_truncate(p) for p in _data_files(d)],
    "arrays removed": lambda d: [_remove(p) for p in _data_files(d)],
    "tree metadata emptied": lambda d: (d / "state" / "_METADATA").write_bytes(b""),
    "meta truncated": lambda d: _truncate(
        max((p for p in (d / "meta").iterdir()), key=lambda p: p.stat().st_size)
    ),
    "all emptied": lambda d: [_remove(p) for p in d.iterdir() if p.is_dir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_falls_back_with_one_warning(saved, damage):
    DAMAGES[damage](saved / "3")
    ckpt = Checkpointer(saved, keep_last=3)
    with pytest.warns(UserWarning) as caught:
        step, state, meta = ckpt.restore(make_state())
    assert (step, meta) == (2, {"seen": 2})
    assert_identical(state, make_state(2))
    ours = [str(w.message) for w in caught if "damaged" in str(w.message)]
    assert len(ours) == 1
    assert "step 3 (OSError: " in ours[0] and "Restored step 2" in ours[0]
    assert (saved / "3.damaged").is_dir()
    # The run goes on and comes to the same step again.
    ckpt.save(3, make_state(3), {"seen": 33})
    assert ckpt.restore(make_state()).meta == {"seen": 33}
    ckpt.close()


UNLISTED = """
    import sys, warnings
    import numpy as np
    from jopd.training.checkpoint import Checkpointer
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = Checkpointer(sys.argv[1]).restore({"w": np.zeros(5000)})
    assert got.step == 1 and (got.state["w"] == 1).all()
    print([str(w.message) for w in caught if "damaged" in str(w.message)])
"""


def test_damage_is_found_without_a_list_of_sizes_too(tmp_path):
    ckpt = Checkpointer(tmp_path)
    rng = np.random.default_rng(0)
    ckpt.save(1, {"w": np.ones(5000)}, {})
    ckpt.save(2, {"w": rng.normal(size=5000)}, {})
    ckpt.close()
    (tmp_path / "2" / "sums.json").unlink()
    DAMAGES["arrays truncated"](tmp_path / "2")
    code, out, err = run_python(UNLISTED, tmp_path)
    assert code == 0, err
    assert out.count("step 2 (") == 1 and "Restored step 1 instead" in out


def _flipped(folder, rng):
    """One bit of one file of a checkpoint, each file as likely; returns its name."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]
    file = files[rng.integers(len(files))]
    held = bytearray(file.read_bytes())
    held[rng.integers(len(held))] ^= 1 << rng.integers(8)
    file.write_bytes(held)
    return str(file.relative_to(folder))


def test_no_flipped_bit_passes_the_sums(saved):
    """300 places in all files, the list itself among them, one at a time."""
    rng, folder = np.random.default_rng(0), saved / "3"
    kept = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert sums.metric_of(folder) == -3.0
    for _ in range(300):
        name = _flipped(folder, rng)
        with pytest.raises(OSError, match=sums.NAME if name == sums.NAME else name):
            sums.check(folder, name.split("/")[0])
        (folder / name).write_bytes(kept[folder / name])
    for part in ("state", "meta"):
        sums.check(folder, part)


@pytest.mark.parametrize(
    "seed",
    [*range(4), *(pytest.param(s, marks=pytest.mark.slow) for s in range(4, 60))],
)
def test_a_flipped_bit_means_the_checkpoint_before_with_the_reason(seed, saved):
    name = _flipped(saved / "3", np.random.default_rng([7, seed]))
    ckpt = Checkpointer(saved, keep_last=3)
    what = "sums.json is damaged" if name == sums.NAME else f"{name} has changed"
    with pytest.warns(UserWarning, match=rf"step 3 \(OSError: {what}.*Restored step 2"):
        step, state, _ = ckpt.restore(make_state())
    assert step == 2
    assert_identical(state, make_state(2))
    ckpt.close()


def test_a_metric_may_come_after_the_save(saved):
    ckpt = Checkpointer(saved, keep_last=3)
    ckpt.judge(3, 0.5)
    ckpt.judge(2, float("nan"))  # never the best, as in a save
    assert ckpt.best_steps()[0] == 3
    ckpt.close()
    again = Checkpointer(saved, keep_last=3)
    assert again.best_steps()[0] == 3
    assert_identical(again.restore(make_state()).state, make_state(3))
    again.close()


def test_the_newest_removed_wholly_means_the_one_before(saved):
    _remove(saved / "3")
    ckpt = Checkpointer(saved)
    assert ckpt.restore(make_state()).step == 2
    ckpt.close()


def test_two_damaged_ones_are_both_named(saved):
    DAMAGES["arrays truncated"](saved / "3")
    _remove(saved / "2" / "state")
    ckpt = Checkpointer(saved)
    with pytest.warns(UserWarning, match=r"step 2 \(.*step 3 \(.*Restored step 1"):
        assert ckpt.restore(make_state()).step == 1
    ckpt.close()


def test_none_readable_is_an_error_and_touches_nothing(saved):
    for step in (1, 2, 3):
        _remove(saved / str(step) / "state" / "manifest.ocdbt")
    ckpt = Checkpointer(saved)
    with pytest.raises(OSError, match=r"no checkpoint under .* step 1 .*step 3 "):
        ckpt.restore(make_state())
    assert sorted(p.name for p in saved.iterdir()) == ["1", "2", "3"]
    ckpt.close()


@pytest.mark.parametrize(
    "change, text",
    [
        ({"step": 1.0}, r"\['step'\] is int there and float here"),
        ({"keys": None}, r"\['keys'\] is key<fry>\[3\] there and absent here"),
        ({"more": 1}, r"\['more'\] is absent there and int here"),
        ({"half": np.zeros(4, ml_dtypes.bfloat16)}, r"bfloat16\[3\] .* bfloat16\[4\]"),
        ({"half": np.zeros(3, np.float32)}, r"bfloat16\[3\] .* float32\[3\]"),
    ],
)
def test_another_template_is_an_error_not_a_damaged_checkpoint(saved, change, text):
    ckpt = Checkpointer(saved)
    with pytest.raises(ValueError, match=text):
        ckpt.restore(make_state() | change)
    assert sorted(p.name for p in saved.iterdir()) == ["1", "2", "3"]
    ckpt.close()


def test_wrong_use_is_named(saved):
    ckpt = Checkpointer(saved)
    with pytest.raises(ValueError, match="step 3 is saved"):
        ckpt.save(3, make_state(), {})
    with pytest.raises(ValueError, match=r"leaf \['fn'\] .* is a function"):
        ckpt.save(4, {"fn": make_state}, {})
    ckpt.close()
    with pytest.raises(ValueError, match="keep_last=0"):
        Checkpointer(saved, keep_last=0)
    with pytest.raises(ValueError, match="'median'"):
        Checkpointer(saved, best_mode="median")


def test_a_workdir_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"cannot use .*taken.* for checkpoints"):
        Checkpointer(tmp_path / "taken" / "ckpt")


def run_python(code, *args, **env):
    """A fresh interpreter; returns (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


# keep_last=1: a careless order would delete step 1 before step 2 is complete.
FULL_DISK = """
    import resource, signal, sys
    import jax.numpy as jnp, numpy as np
    from jopd.training.checkpoint import Checkpointer

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    rng = np.random.default_rng(0)
    state = {"w": jnp.asarray(rng.normal(size=(500, 500)), jnp.float32)}
    ckpt = Checkpointer(sys.argv[1], keep_last=1, keep_best=0)
    ckpt.save(1, state, {"seen": 1})
    ckpt.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    ckpt.save(2, state, {"seen": 2})
    print("first returned", flush=True)
    if sys.argv[2] == "save":
        ckpt.save(3, state, {"seen": 3})
    elif sys.argv[2] == "wait":
        ckpt.wait()
    else:
        ckpt.close()
    print("never reached")
"""


@pytest.mark.parametrize("where", ["save", "close"])
def test_a_full_disk_stops_the_run_and_spares_the_checkpoint_before(tmp_path, where):
    code, out, err = run_python(FULL_DISK, tmp_path / "ckpt", where)
    assert code == 1
    assert out.split("\n")[:1] == ["first returned"] and "never" not in out
    last = err.strip().splitlines()[-1]
    assert last.startswith("OSError: the checkpoint of step 2 could not be written")
    assert "step 1 is complete" in last and "MiB free" in last
    assert "File too large" in err  # the cause stays in the traceback
    ckpt = Checkpointer(tmp_path / "ckpt")
    rng = np.random.default_rng(0)
    want = jnp.asarray(rng.normal(size=(500, 500)), jnp.float32)
    step, state, meta = ckpt.restore({"w": jnp.zeros_like(want)})
    assert (step, meta) == (1, {"seen": 1})
    np.testing.assert_array_equal(state["w"], want)
    # The torn attempt is gone, so its space is free for the next one.
    assert [p.name for p in (tmp_path / "ckpt").iterdir()] == ["1"]
    ckpt.close()


def test_a_vanished_folder_fails_at_once_and_lets_the_process_exit(tmp_path):
    code = """
        import shutil, sys
        import jax.numpy as jnp
        from jopd.training.checkpoint import Checkpointer
        ckpt = Checkpointer(sys.argv[1])
        shutil.rmtree(sys.argv[1])
        open(sys.argv[1], "w").close()
        ckpt.save(1, {"w": jnp.zeros(3)}, {})
        ckpt.wait()
    """
    code, _, err = run_python(code, tmp_path / "ckpt")
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert "checkpoint of step 1 could not be written" in last
    assert "there is none before it" in last


KILLED = """
    import os, signal, sys, threading, time
    from pathlib import Path
    import jax.numpy as jnp, numpy as np
    from jopd.training.checkpoint import Checkpointer
    state = {"w": jnp.asarray(np.random.default_rng(0).normal(size=3_000_000))}
    ckpt = Checkpointer(sys.argv[1], keep_last=1, keep_best=0)
    ckpt.save(1, state, {})
    ckpt.wait()
    ckpt.save(2, state, {})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_save_leaves_the_checkpoint_before(tmp_path):
    code, _, _ = run_python(KILLED, tmp_path)
    assert code == -9
    names = {p.name for p in tmp_path.iterdir()}
    assert "1" in names and "2" not in names and len(names) == 2  # and a torn one
    ckpt = Checkpointer(tmp_path)
    restored = ckpt.restore({"w": jnp.zeros(3_000_000)})
    assert restored.step == 1
    assert {p.name for p in tmp_path.iterdir()} == {"1"}
    ckpt.close()


SHARDED = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from jopd.training.checkpoint import Checkpointer
    def placed(shape, names, spec, value):
        devices = jax.devices()[: int(np.prod(shape))]
        mesh = jax.make_mesh(
            shape, names, axis_types=(AxisType.Auto,) * len(names), devices=devices)
        w = jax.device_put(value, NamedSharding(mesh, spec))
        key = jax.device_put(jax.random.key(5), NamedSharding(mesh, P()))
        return {"w": w, "key": key}
    value = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    saved = placed((2, 2), ("data", "fsdp"), P("fsdp", "data"), value)
    ckpt = Checkpointer(sys.argv[1])
    ckpt.save(1, saved, {})
    for shape, names, spec in [((2, 2), ("data", "fsdp"), P("fsdp", "data")),
                               ((4,), ("fsdp",), P(None, "fsdp")), ((1,), ("x",), P())]:
        template = placed(shape, names, spec, np.zeros_like(value))
        for t in (template, jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            template)):
            got = ckpt.restore(t).state
            assert got["w"].sharding == template["w"].sharding, got["w"].sharding
            assert got["key"].sharding == template["key"].sharding, (
                got["key"].sharding, template["key"].sharding)
            assert np.array_equal(got["w"], value)
            assert np.array_equal(*(np.asarray(jax.random.key_data(k))
                                    for k in (got["key"], saved["key"])))
    ckpt.close()
    print("same")
"""


def test_sharded_arrays_come_back_on_the_templates_mesh(tmp_path):
    flags = "--xla_force_host_platform_device_count=4"
    code, out, err = run_python(SHARDED, tmp_path, XLA_FLAGS=flags)
    assert (code, out) == (0, "same\n"), err


def test_one_device_named_sharding_template(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec())
    state = {"w": jax.device_put(jnp.arange(4.0), sharding)}
    ckpt = Checkpointer(tmp_path)
    ckpt.save(1, state, {})
    assert ckpt.restore(state).state["w"].sharding == sharding
    ckpt.close()


def test_meta_is_plain_json_on_disk(saved):
    (file,) = (saved / "3" / "meta").glob("*.json")
    assert json.loads(file.read_text())["meta"] == {"seen": 3}


def test_root_cause_is_named():
    try:
        try:
            raise OSError("inner\nsecond line")
        except OSError as error:
            raise KeyError("outer") from error
    except KeyError as error:
        assert checkpoint._root(error) == "OSError: inner"


def test_an_error_that_causes_itself_is_said():
    """A failed save is kept, and raised again where the next one waits for it."""
    first, second = OSError("no space"), OSError("not saved")
    second.__cause__, first.__context__ = first, second
    assert checkpoint._root(second) == "OSError: no space"
