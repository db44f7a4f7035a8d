"""The pack needs none of the packages that the original of MAGI-1 cannot do without."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tools.host.environment import REPO, Environment

FOREIGN = ("flash_attn", "flashinfer", "triton", "magi_attention", "decord")

SCRIPT = """
import asyncio, importlib, importlib.util, json, pkgutil, sys

repo, comfyui, blocked = sys.argv[1], sys.argv[2], set(json.loads(sys.argv[3]))
sys.path[:] = [comfyui, *sys.path, repo]
import tools.host.torchvision_ops as ops

ops.declare_missing_ops()
import comfy.cli_args

comfy.cli_args.args.cpu = True
import nodes  # what ComfyUI itself imports is not the pack's doing


class Blocked(Exception):
    pass


class Finder:
    asked = []

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            self.asked.append(name)
            raise Blocked(f"the pack asks for {name}")


for name in [name for name in sys.modules if name.partition(".")[0] in blocked]:
    del sys.modules[name]
sys.meta_path.insert(0, Finder())
for name in blocked:
    try:
        importlib.import_module(name)
    except Blocked:
        continue
    raise AssertionError(f"{name} is not blocked")
Finder.asked.clear()

spec = importlib.util.spec_from_file_location("pack", f"{repo}/__init__.py", submodule_search_locations=[repo])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
modules = []
for room in ("motioncache_core", "nodes"):
    package = importlib.import_module(f"pack.{room}")
    found = pkgutil.walk_packages(package.__path__, f"pack.{room}.")
    modules += [importlib.import_module(module.name).__name__ for module in found]


async def listed():
    extension = await pack.comfy_entrypoint()
    return await extension.get_node_list()


ids = [node.GET_SCHEMA().node_id for node in asyncio.run(listed())]
print(json.dumps({"ids": ids, "modules": len(modules), "asked": Finder.asked}))
"""


def run_blocked(environment: Environment, folder: Path, blocked: tuple[str, ...]) -> subprocess.CompletedProcess:
    """Import the whole pack in a new ComfyUI process in which importing these packages raises an error."""
    arguments = [str(REPO), str(environment.comfyui), json.dumps(blocked)]
    command = [str(environment.python), "-c", SCRIPT, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_pack_imports_and_lists_its_nodes_without_them(environment: Environment, tmp_path: Path):
    finished = run_blocked(environment, tmp_path, FOREIGN)
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout.splitlines()[-1])
    assert told["asked"] == [], "not even tried"
    assert told["modules"] > 60
    assert {"MotionCacheLoadMagi1", "MotionCacheMagi1Sampler", "MotionCacheLoadMagi1VAE"} <= set(told["ids"])
    assert len(told["ids"]) == len(set(told["ids"])) >= 12


def test_a_package_that_the_pack_does_import_would_be_noticed(environment: Environment, tmp_path: Path):
    """So that the test above tests something."""
    finished = run_blocked(environment, tmp_path, ("einops",))
    assert finished.returncode != 0
    assert "the pack asks for einops" in finished.stderr
