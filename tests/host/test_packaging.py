"""What a stranger gets: the registry's archive and a Manager install, each loaded by the real ComfyUI."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import tomllib

from tools.host.environment import REPO, Environment
from tools.host.server import ComfyServer

NODE_IDS = {
    "MotionCacheLoadSkyReelsV2",
    "MotionCacheApply",
    "MotionCacheAutoregressiveSampler",
    "MotionCacheAutoregressiveSamplerObject",
    "MotionCacheSavePrompt",
    "MotionCacheLoadPrompt",
    "MotionCacheDecisionMask",
    "MotionCacheMotionMaskPreview",
    "MotionCacheReport",
    "MotionCacheCompareVideos",
    "MotionCacheSweep",
    "MotionCacheLoadMagi1",
    "MotionCacheLoadMagi1VAE",
    "MotionCacheMagi1TextEncode",
    "MotionCacheChunkPrompt",
    "MotionCacheMagi1Sampler",
    "MotionCacheSaveLongVideo",
    "MotionCacheBeginVideo",
    "MotionCacheBeginMagi1Video",
    "MotionCacheGenerateChunks",
    "MotionCacheFinishVideo",
    "MotionCacheDecodeChunk",
    "MotionCacheSaveTake",
    "MotionCacheLoadTake",
}
SHIPPED = {"__init__.py", "nodes", "motioncache_core", "workflows", "tiny_world", "pyproject.toml", "README.md"}
SHIPPED |= {"LICENSE", "CHANGELOG.md", "icon.png"}
MAY_SHIP = {"web", "locales"}
# What the registry flags, and what an artist must not find in a pack: processes, network, unpickling, evaluation.
FLAGGED = {
    ".py": r"\bsubprocess\b|\bos\.(system|popen|exec\w*|spawn\w*)\b|\burllib\b|\bimport requests\b|\brequests\.\w"
    r"|\bimport socket\b|\bhttp\.client\b|\baiohttp\b|\bhttpx\b|\bpickle\b|\btorch\.load\b|\b__import__\b"
    r"|(?<![\w.])(eval|exec|compile)\(",
    ".js": r"(?<![\w.])eval\(|\bnew Function\b|\bimport\(|https?://(?!www\.w3\.org/)|\bXMLHttpRequest\b",
}


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it stands, committed in a git repository of its own."""
    folder = tmp_path_factory.mktemp("checkout") / "ComfyUI-MotionCache"
    folder.mkdir()
    for name in git(REPO, "ls-files", "-co", "--exclude-standard", "-z").split("\0"):
        if name and (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((REPO / name).read_bytes())
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "As it stands")
    return folder


@pytest.fixture(scope="session")
def comfy_cli(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs comfy-cli in a folder and returns what it said; its settings go to a temporary home."""
    assert environment.cli is not None, "comfy-cli is missing: run the tests with `python dev.py test`"
    home = tmp_path_factory.mktemp("home")
    variables = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "APPDATA": str(home)}

    def run(folder: Path, *arguments: str) -> str:
        command = [str(environment.cli), "--skip-prompt", *arguments]
        finished = subprocess.run(
            command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout + finished.stderr

    run(home, "tracking", "disable")
    return run


@pytest.fixture(scope="session")
def archive(checkout: Path, comfy_cli: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry's archive, unpacked."""
    said = comfy_cli(checkout, "node", "validate")
    assert "passed" in said, said
    comfy_cli(checkout, "node", "pack")
    folder = tmp_path_factory.mktemp("archive") / "motioncache"
    with zipfile.ZipFile(checkout / "node.zip") as packed:
        packed.extractall(folder)
    return folder


def installed_packages() -> set[tuple[str, str]]:
    """Names and versions in the virtual environment that the tests, ComfyUI and the Manager share."""
    return {(package.name, package.version) for package in importlib.metadata.distributions()}


def pack_nodes(server: ComfyServer) -> set[str]:
    return {name for name in server.object_info() if name.startswith("MotionCache")}


def test_pyproject_has_what_the_registry_asks_for():
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
    general, comfy = project["project"], project["tool"]["comfy"]
    assert general["name"] == "motioncache"
    assert re.fullmatch(r"\d+\.\d+\.\d+", general["version"])
    assert f"## {general['version']}\n" in (REPO / "CHANGELOG.md").read_text(encoding="utf-8")
    assert general["dependencies"] == [], "ComfyUI brings everything; a dependency would be installed at run time"
    assert not (REPO / "requirements.txt").exists() or not (REPO / "requirements.txt").read_text().strip()
    assert general["requires-python"] == ">=3.10"
    assert (REPO / general["license"]["file"]).read_text(encoding="utf-8").lstrip().startswith("Apache License")
    assert (REPO / general["readme"]).is_file()
    assert comfy["PublisherId"] == "motioncache"
    for model in ("SkyReels-V2", "MAGI-1"):
        assert model in general["description"] and model in comfy["DisplayName"]
    assert f"**{comfy['DisplayName']}**" in (REPO / "README.md").read_text(encoding="utf-8")
    assert comfy["requires-comfyui"] == ">=0.3.75"
    assert "web" not in comfy, "WEB_DIRECTORY names the folder; both together load every script twice"
    repository = general["urls"]["Repository"].removeprefix("https://github.com/")
    owner, _, icon = comfy["Icon"].removeprefix("https://raw.githubusercontent.com/").partition("/main/")
    assert (owner, (REPO / icon).is_file()) == (repository, True)


def test_the_archive_holds_the_pack_and_nothing_else(archive: Path, checkout: Path):
    top = {entry.name for entry in archive.iterdir()}
    assert top - MAY_SHIP == SHIPPED
    size = {file: file.stat().st_size for file in archive.rglob("*") if file.is_file()}
    assert max(size.values()) < 10 * 2**20, max(size, key=size.get)
    assert (checkout / "node.zip").stat().st_size < 15_000_000
    pages = {path.relative_to(REPO) for path in (REPO / "web" / "docs").rglob("*") if path.is_file()}
    assert pages and pages <= {file.relative_to(archive) for file in size}, "help pages with their pictures"
    assert not [file for file in size if "__pycache__" in file.parts or file.suffix in (".pyc", ".so", ".pt", ".pth")]


def test_the_archive_has_no_code_that_the_registry_flags(archive: Path):
    sources = [file for file in archive.rglob("*") if file.suffix in FLAGGED]
    assert {"__init__.py", "sampling.py", "loop.py"} <= {file.name for file in sources}
    found = [
        f"{file.relative_to(archive)}:{number}: {line.strip()}"
        for file in sources
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(FLAGGED[file.suffix], line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("suffix", "line"),
    [
        (".py", "import subprocess"),
        (".py", "    eval(text)"),
        (".py", "x = torch.load(path)"),
        (".py", "from urllib.request import urlopen"),
        (".js", 'import("https://example.org/a.js")'),
    ],
)
def test_the_search_for_flagged_code_finds_it(suffix: str, line: str):
    assert re.search(FLAGGED[suffix], line)
    assert not re.search(FLAGGED[suffix], "model.eval()  # the evaluation of a retrieval")


def test_the_unpacked_archive_loads_in_comfyui(
    archive: Path, comfy: ComfyServer, environment: Environment, tmp_path: Path
):
    with ComfyServer(tmp_path, pack=archive, environment=environment) as server:
        assert NODE_IDS <= pack_nodes(server) == pack_nodes(comfy)
        assert "IMPORT FAILED: " + str(tmp_path) not in server.log()


def test_comfyui_manager_installs_from_a_git_url(
    checkout: Path, comfy: ComfyServer, environment: Environment, tmp_path: Path
):
    """The Manager clones into a ComfyUI of its own, and a real one loads the pack from there."""
    home, base = tmp_path / "ComfyUI", tmp_path / "base"
    shutil.copytree(environment.comfyui, home, ignore=shutil.ignore_patterns("__pycache__", "user"))
    (base / "custom_nodes").mkdir(parents=True)
    origin = tmp_path / "ComfyUI-MotionCache.git"
    git(tmp_path, "clone", "-q", "--bare", str(checkout), str(origin))
    before = installed_packages()

    install = [str(environment.python.parent / "cm-cli"), "install", f"file://localhost{origin.as_posix()}"]
    finished = subprocess.run(
        [*install, "--mode", "local"],
        env={**os.environ, "COMFYUI_PATH": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Installation was successful" in finished.stdout, finished.stdout + finished.stderr
    installed = home / "custom_nodes" / "ComfyUI-MotionCache"
    assert (installed / ".git").is_dir()
    assert installed_packages() == before, "an install must not change the packages that ComfyUI runs on"

    (base / "custom_nodes" / installed.name).symlink_to(installed)
    with ComfyServer(base, pack=None, environment=environment) as server:
        assert NODE_IDS <= pack_nodes(server) == pack_nodes(comfy)
