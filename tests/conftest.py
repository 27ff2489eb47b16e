"""Set before jax is imported: two virtual CPU devices, no network."""

import importlib.metadata
import os
import signal

# Under nohup hangups are ignored, by child processes too; tests send them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_FLAGS = [
    "--xla_force_host_platform_device_count=2",
    # Tests compile many small programs once; optimising them costs more than it saves.
    "--xla_backend_optimization_level=0",
]
# XLA ends the process where it does not know a flag, and these may go as they came.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # The older way to write a fusion down compiles in less than half of the time.
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
    # Threads for the parts of one program only wait for cores that the workers need.
    _FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")
os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")]).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
# Where in the source each operation came from, which no test reads.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

import gc  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from jopd.training import workdir  # noqa: E402

# Tracing leaves many objects that stay: looking them all through so often is in vain.
gc.set_threshold(50_000)

# Begun first, so that no worker is left with one of them when the other has ended.
LONG = (
    "configs_test",
    "methods_test",
    "teachers_doc_test",
    "own_tokens_test",
    "step_test",
    "apart_test",
    "stored_run_test",
    "blocks_test",
    "served_run_test",
    "train_features_test",
    "bits_test",
    "cli_test",
    "divergences_test",
    "loop_test",
    "app_test",
    "watch_test",
    "objective_test",
    "lora_run_test",
    "all_families_test",
    "doctor_test",
    "models_test",
)


def pytest_collection_modifyitems(items):
    place = {name: at for at, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data folder beside the checkout: models, tokenizers, problems."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared test data, and {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory, cache) -> Path:
    """A directory with a tiny random pair; in ``words`` one for the task in words."""
    import runs
    from jopd.setup import inputs

    folder = tmp_path_factory.mktemp("models")
    runs.make_pair(folder)
    words = inputs.load_tokenizer(inputs.model_path("demo:words_student"))
    runs.make_pair(folder / "words", tokenizer=words, max_positions=256)
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """Compiled programs that one test session shares: its workers, their children.

    ``workdir.use_compilation_cache`` takes it from the environment.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # each worker has a folder of its own in there
    folder = folder / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        workdir.use_compilation_cache()
        yield folder


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs go with the module that asked for them.

    Each is some twenty mappings of memory; all of a session are more than the 65,530
    that Linux grants a process, which then ends in a segmentation fault.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def plain_charts(monkeypatch):
    """Whole runs that are not asked for their report draw its charts empty.

    pytestmark = pytest.mark.usefixtures("plain_charts")
    """
    draw = lambda self, file, **_: file.write("<svg></svg>")
    monkeypatch.setattr(Figure, "savefig", draw)


@pytest.fixture
def strict_promotion():
    """Kernel tests opt in: no silent broadcasting of ranks or mixing of dtypes.

    pytestmark = pytest.mark.usefixtures("strict_promotion")
    """
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
