"""What all tests share: the import path, one real ComfyUI for the session, a browser, the golden data."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parent.parent
# ComfyUI first and the repository last: both have something called `nodes`, and ComfyUI's is a module that it imports.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != REPO] + [str(REPO)]

from tools.host.environment import Environment, located  # noqa: E402
from tools.host.torchvision_ops import declare_missing_ops  # noqa: E402

ENVIRONMENT = located()
sys.path.insert(0, str(ENVIRONMENT.comfyui))

THREADS = os.environ.get("MOTIONCACHE_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", THREADS)  # of the servers too: on two cores a page needs one of its own

import torch  # noqa: E402

declare_missing_ops()
torch.set_num_threads(int(THREADS))

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True  # before anything imports comfy.model_management, which looks for a GPU

NO_CHROMIUM = "no Chromium here: the browser tests did not run (Debian: apt-get install chromium)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the server, so that `-m "not host"` is a quick run."""
    for item in items:
        if "comfy" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.host)


def pytest_terminal_summary(terminalreporter) -> None:  # noqa: ANN001 - pytest's own
    """A missing browser is said in words, not only as an `s` among dots; so are counts that tests have made."""
    for passed in terminalreporter.stats.get("passed", ()):
        for name, value in passed.user_properties:
            terminalreporter.write_line(f"{passed.nodeid.rpartition('::')[2]}: {value:,} {name}")
    if ENVIRONMENT.chromium is None:
        terminalreporter.write_line(NO_CHROMIUM, yellow=True)


@pytest.fixture(scope="session")
def environment() -> Environment:
    """Where Python, ComfyUI, comfy-cli and Chromium lie."""
    return ENVIRONMENT


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The golden data: the whole set where it lies beside the repository, else the committed subset."""
    whole = REPO.parent / "shared" / "reference"
    return whole if whole.is_dir() else REPO / "tests" / "reference"


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """The session's one ComfyUI server with the pack, a `tools.host.server.ComfyServer`."""
    from tools.host.server import ComfyServer

    with ComfyServer(tmp_path_factory.mktemp("comfyui"), environment=ENVIRONMENT) as server:
        yield server


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The pack imported in this process as ComfyUI does it, as the package `motioncache`.

    Its `motioncache.motioncache_core` is not the module `motioncache_core` that core tests import: classes of the two
    are different objects.
    """
    if "motioncache" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "motioncache", REPO / "__init__.py", submodule_search_locations=[str(REPO)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules["motioncache"] = module
        spec.loader.exec_module(module)
    return sys.modules["motioncache"]


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """A headless Chromium (Playwright's sync API); tests that ask for it are skipped where there is none."""
    if ENVIRONMENT.chromium is None:
        pytest.skip(NO_CHROMIUM)
    from playwright.sync_api import sync_playwright

    from tools.host.stage import CHROMIUM_ARGUMENTS

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=str(ENVIRONMENT.chromium), headless=True, args=CHROMIUM_ARGUMENTS
        )
        yield chromium
        chromium.close()


@pytest.fixture
def comfy_page(browser, comfy) -> Iterator:  # noqa: ANN001 - Playwright's Browser and our ComfyServer
    """ComfyUI's own page, loaded and ready, as a Playwright page."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
    page.goto(comfy.url, timeout=240_000)
    page.wait_for_function("() => window.app?.graph && window.app.extensionManager", timeout=240_000)
    yield page
    page.close()
