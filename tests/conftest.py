"""Set before jax is imported: two virtual CPU devices, no network."""

import os

_FLAGS = (
    "--xla_force_host_platform_device_count=2",
    # Tests compile many small programs once; optimising them costs more than it saves.
    "--xla_backend_optimization_level=0",
    # The older way to write a fusion down compiles in less than half of the time.
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")]).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

from jopd.training import workdir  # noqa: E402


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data folder beside the checkout: models, tokenizers, problems."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared test data, and {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory, cache) -> Path:
    """A directory with two tiny random models, ``student`` and ``teacher``."""
    import runs

    folder = tmp_path_factory.mktemp("models")
    runs.make_model(folder / "student", seed=1)
    runs.make_model(folder / "teacher", seed=2, layers=2)
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


@pytest.fixture
def strict_promotion():
    """Kernel tests opt in: no silent broadcasting of ranks or mixing of dtypes.

    pytestmark = pytest.mark.usefixtures("strict_promotion")
    """
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
