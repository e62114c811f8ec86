"""What all tests share: a hub of their own, real data where there is some, and caches that are not the user's."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import isolation
from hub.running import HUB
from hub.server import DummyHub

# Here, because huggingface_hub and datasets read the environment when they are imported.
HOME = Path(tempfile.mkdtemp(prefix="ddhub-tests-hf-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
isolation.set_environment(HUB.endpoint, HOME)
isolation.guard_sockets()

import torch  # noqa: E402
from recorded import recorded  # noqa: E402, F401  # a fixture
from repeated import repeated  # noqa: E402, F401  # a fixture

# Files of 20 s of CPU and more, the longest first; a file is the work of one process (`--dist loadfile`).
LONG = (
    "pretend/test_methods.py",
    "recipes/test_recipes.py",
    "artifact/test_artifact.py",
    "artifact/test_mutations.py",
    "recipes/test_stock_runner.py",
    "recipes/test_budget.py",
    "training/test_ranks.py",
    "test_gpu_check.py",
    "recipes/test_nrr_dd.py",
)
torch.set_num_threads(1)  # tests run side by side, and threads that wait for one another make all of them slow


def pytest_configure(config: pytest.Config) -> None:
    """Let the Hub's client use what its own HTTP library has deprecated."""
    config.addinivalue_line("filterwarnings", "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that no worker is left alone with one of them at the end."""
    order = {Path(__file__).parent / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(LONG)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What came of every fault that tests put between the client and the hub (`hub.test_faults`)."""
    reports = [x for kind in ("passed", "failed") for x in terminalreporter.stats.get(kind, []) if x.when == "call"]
    rows = [value for report in reports for key, value in report.user_properties if key == "fault"]
    if rows:
        terminalreporter.section("faults, and what came of them")
    for fault, outcome in rows:
        terminalreporter.write_line(f"{fault:45} {outcome}")


@pytest.fixture(autouse=True, scope="session")
def shared_cache() -> Iterator[Path]:
    """One cache for the whole session: decoding CIFAR-10 takes seconds, so it happens once."""
    with (
        tempfile.TemporaryDirectory(prefix="ddhub-tests-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("DDHUB_CACHE", folder)
        yield Path(folder)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """What a test draws without a seed of its own is the same whichever tests ran before it: xdist deals those out."""
    torch.manual_seed(73)  # no test's own seed


@pytest.fixture(autouse=True)
def own_network() -> Iterator[None]:
    """Fail the test that asked the hub for what it does not know, sent a token to the CDN or left the machine."""
    yield
    troubles = [*HUB.troubles, *isolation.blocked]
    HUB.troubles.clear()
    isolation.blocked.clear()
    if troubles:
        pytest.fail("\n".join(troubles))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_network: None) -> Iterator[DummyHub]:
    """The hub, without repositories, faults and log, and a client with an empty cache, signed in as nobody."""
    HUB.patch = monkeypatch
    HUB.clear()
    HUB.new_home(tmp_path)
    yield HUB
    if not HUB.running:
        HUB.start()
    troubles = HUB.troubles
    HUB.clear()
    HUB.troubles = troubles


@pytest.fixture
def signed_in(hub: DummyHub, monkeypatch: pytest.MonkeyPatch) -> DummyHub:
    """The hub, with the token of a user who may write in the environment."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub


@pytest.fixture(scope="session")
def data_root() -> Path:
    """A data root with CIFAR-10: DDHUB_DATA, else shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("DDHUB_DATA") or beside)
    if not (root / "uoft-cs" / "cifar10" / "plain_text").is_dir():
        pytest.skip(f"no CIFAR-10 in {root}: set DDHUB_DATA to a data root to run this test")
    return root
