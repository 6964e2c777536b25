"""Eight virtual CPU devices for every test, set before JAX starts."""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# Compiling takes most of the time here: without LLVM's optimiser the suite needs a third less,
# as it does where XLA does not cut each of these small programs into 32 for as many threads, and
# less again without XLA's MLIR emitters, which cannot be switched off in later versions.
HAS_OLD_EMITTERS = version("jaxlib").startswith("0.10.")
OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false" if HAS_OLD_EMITTERS else ""
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
        OLD_EMITTERS,
    ]
)
# For processes of the tests of BIT_FOR_BIT. Workers of pytest-xdist got their flags twice.
USERS_EMITTERS = os.environ["XLA_FLAGS"].replace(OLD_EMITTERS, "")
# Compiled once for all workers and for the processes that they start; not those that other
# versions or machines compiled, which are not what is tested.
if "DELT_TEST_CACHE" not in os.environ:
    os.environ["DELT_TEST_CACHE"] = tempfile.mkdtemp(prefix="delt_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["DELT_TEST_CACHE"], ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["DELT_TEST_CACHE"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # of every operation; nobody reads them here
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gc
from pathlib import Path

import pytest

# Tests with programs as users have them: these compare bits between one and several devices.
BIT_FOR_BIT = (
    "recovery/test_residual.py",
    "recovery/test_step.py",
    "runtime/test_processes_of_a_job.py",
    "stages/test_resume.py",
    "teachers/test_prediction.py",
    "training/test_student_resume.py",
)
# And these run large networks, for which the old emitters' programs are slow.
LARGE_NETWORKS = ("models/test_zoo.py",)
# Programs in one piece sum a variance in another order, which is beyond the bound of this one.
IN_PIECES = ("models/test_models.py",)


# Begun first by `make test` and `make test_rest`, so that neither ends with one of them alone.
LONGEST = (
    "runtime/test_processes_of_a_job.py",
    "models/test_zoo.py",
    "stages/test_resume.py",
    "training/test_student_resume.py",
    "config/test_methods.py",
    "learned/test_formulas.py",
    "recovery/test_residual.py",
    "commands/test_main.py",
    "commands/test_python.py",
    "comparison/test_comparison.py",
    "stages/test_pipeline.py",
    "augment/test_augment_views.py",
    "stages/test_damage.py",
    "recovery/test_step.py",
    "training/test_student_loop.py",
)


def pytest_collection_modifyitems(items):
    """The files of LONGEST in front; pytest-xdist hands out files in this order."""
    places = {name: place for place, name in enumerate(LONGEST)}

    def place_of(item):
        return places.get("/".join(item.path.parts[-2:]), len(LONGEST))

    items.sort(key=place_of)


def pytest_collection_finish():
    """What thousands of tests are made of stays; looking through it for garbage takes long."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="module")
def garbage():
    """Collected after every file: with the thresholds above workers grew to six gigabytes."""
    yield
    gc.collect()


@pytest.fixture(autouse=True, scope="module")
def compiled_as_users_have_it(request):
    """XLA's default emitters for BIT_FOR_BIT and LARGE_NETWORKS, its pieces for IN_PIECES."""
    module, changed = request.path.as_posix(), {}
    if HAS_OLD_EMITTERS and module.endswith(BIT_FOR_BIT + LARGE_NETWORKS):
        changed["xla_cpu_use_fusion_emitters"] = True
    if module.endswith(IN_PIECES):
        changed["xla_cpu_parallel_codegen_split_count"] = 32
    if not changed:
        yield
        return
    from jax._src import compiler  # only here can options of every compilation be set

    from delt_jax.runtime import compile_cache

    options_of = compiler.get_compile_options

    def with_changes(*args, env_options_overrides=None, **others):
        options = {**(env_options_overrides or {}), **changed}
        return options_of(*args, env_options_overrides=options, **others)

    compile_cache.free()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", with_changes)
        yield
    compile_cache.free()


@pytest.fixture(autouse=True, scope="session")
def nothing_ahead():
    """Runs in this process compile as they call: many of them end before what they prepared."""
    from delt_jax.runtime import programs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "in_background", lambda begin: None)
        yield


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the recorded vectors: $DELT_GOLDEN_DIR or the copy beside the tests."""
    return golden_dir()


def golden_dir() -> Path:
    """The same, for parametrising by file."""
    return Path(os.environ.get("DELT_GOLDEN_DIR", Path(__file__).parent / "golden"))


def golden_file(name: str) -> Path:
    """A file that recordings name; the copy beside the tests where the folder lacks it."""
    found = golden_dir() / name
    return found if found.exists() else Path(__file__).parent / "golden" / name


@pytest.fixture(scope="session")
def tiny_ranked(tmp_path_factory) -> Path:
    """A work directory with teacher and ranking of `tiny_run.tiny`, to be copied."""
    from tiny_run import tiny  # brings JAX, which starts after the lines above

    from delt_jax import main

    folder = tmp_path_factory.mktemp("tiny") / "run"
    main.run(tiny(), str(folder), ["squeeze", "rank"])
    return folder


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A store in memory, empty at first, behind all gs:// and s3://; its copies go to tmp_path."""
    import fsspec
    from remote_stores import Bucket

    from delt_jax.store import local_copies

    made = Bucket()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **options: made)
    local_copies.forget()
    yield made
    local_copies.forget()
