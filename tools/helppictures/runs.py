"""Runs of the shipped tiny world through the pack's own nodes, each made once and kept under ``build/``.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy.sd import VAE
from comfy.utils import load_torch_file
from motioncache.motioncache_core.live import LiveState
from motioncache.motioncache_core.presets import PRESETS
from motioncache.motioncache_core.quality import mean_psnr
from motioncache.motioncache_core.replay import replayed
from motioncache.motioncache_core.take import generated
from motioncache.motioncache_core.trace import Trace
from motioncache.nodes.begin import MotionCacheBeginVideo
from motioncache.nodes.cache import CUSTOM, MotionCacheApply, knobs_of
from motioncache.nodes.loaders import MotionCacheLoadSkyReelsV2
from motioncache.nodes.prompts import MotionCacheLoadPrompt
from motioncache.nodes.sampling import MotionCacheAutoregressiveSampler
from motioncache.nodes.storyboard import MotionCacheFinishVideo, MotionCacheGenerateChunks

from tools.bench.harness.pack import defaults_of
from tools.host.environment import REPO
from tools.tinyworld import vae as tiny_vae
from tools.tinyworld.dataset import load_vae
from tools.workflow_sources import TINY_MODEL, TINY_NEGATIVE, TINY_PROMPT, TINY_SAMPLING, TINY_VAE

BALANCED = "balanced (measured on the tiny world, 20 steps)"
STORY_SAMPLING = {name: TINY_SAMPLING[name] for name in ("width", "height", "steps", "shift", "seed")}
REENCODED = "re-encode with VAE"
FRAMES = 57
"""Three chunks: enough to see them lie behind each other, with cells that are wide enough to read."""
SOURCES = ("motioncache_core/**/*.py", "nodes/**/*.py", "tiny_world/**/*.safetensors")
"""What a run depends on beside its settings."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """A finished run.

    Args:
        frames: ``[N, H, W, 3]`` uint8.
        text: the node's report, as JSON.
        trace: the node's decisions.
    """

    frames: np.ndarray
    text: str
    trace: Trace

    @property
    def images(self) -> torch.Tensor:
        """The video as IMAGE."""
        return torch.from_numpy(self.frames).float() / 255

    @cached_property
    def report(self) -> dict[str, Any]:
        return json.loads(self.text)

    @cached_property
    def state(self) -> LiveState:
        """What the view on the node shows of the run."""
        return replayed(self.trace, self.report, "", "", "")

    @property
    def computed(self) -> float:
        """The computed fraction."""
        return self.report["summary"]["computed_fraction"]

    def psnr(self, reference: Made) -> float:
        """Mean PSNR in dB against another run."""
        return mean_psnr(self.images, reference.images)


@dataclass(frozen=True)
class Story:
    """A finished storyboard.

    Args:
        frames: ``[N, H, W, 3]`` uint8.
        parts: (name of a prompt, chunks).
        begins: row in which each chunk begins.
        steps: of every chunk.
        ends: for each part's node, and for the one that finishes the video: the row before which it stopped.
        finished: chunks that were clean then.
    """

    frames: np.ndarray
    parts: tuple[tuple[str, int], ...]
    begins: tuple[int, ...]
    steps: int
    ends: tuple[int, ...]
    finished: tuple[int, ...]

    def part_of(self, chunk: int) -> int:
        """Number of the part that a chunk belongs to."""
        ends = list(accumulate(chunks for _, chunks in self.parts))
        return next(number for number, end in enumerate(ends) if chunk < end)


def knobs(preset: str = BALANCED, **changes: Any) -> dict[str, Any]:
    """Values of the MotionCache node: those of a preset, some of them turned."""
    kept = {"preset": CUSTOM, **knobs_of(PRESETS[preset]), **changes}
    return kept if changes else {**kept, "preset": preset}


class Runs:
    """The shipped model, and the runs that were made with it.

    Args:
        folder: where runs are kept from one start to the next.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sources = _fingerprint()
        self._known: dict[str, Any] = {}
        self._takes: dict[tuple[tuple[str, int], ...], Any] = {}

    def __call__(self, cache: Mapping[str, Any] | None = None, **sampling: Any) -> Made:
        """The run with these values of the MotionCache node (``None``: without) and inputs of the sampler."""
        inputs = {**defaults_of(MotionCacheAutoregressiveSampler), **TINY_SAMPLING, "frames": FRAMES, **sampling}
        written = json.dumps([cache, inputs, TINY_PROMPT, self._sources], sort_keys=True)
        turned = cache and {k: v for k, v in cache.items() if k != "distance_table"}
        return self._kept(written, f"sampling with {turned}, {sampling}", lambda: self._sample(cache, inputs))

    def story(self, *parts: tuple[str, int]) -> Story:
        """The take with these parts: (name of a prompt, chunks). What two takes begin with in common is made once."""
        inputs = {**defaults_of(MotionCacheBeginVideo), **STORY_SAMPLING}
        written = json.dumps([parts, inputs, TINY_NEGATIVE, self._sources], sort_keys=True)
        return self._kept(written, f"making the parts {parts}", lambda: self._tell(parts, inputs))

    def _kept(self, written: str, doing: str, make: Callable[[], Any]) -> Any:
        """What ``make`` makes, from the file that bears the digest of ``written`` if there is one."""
        key = hashlib.sha256(written.encode()).hexdigest()[:20]
        if key not in self._known:
            path = self.folder / f"{key}.pt"
            if not path.is_file():
                log.info(doing)
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished = path.with_suffix(".part")
                torch.save(make(), unfinished)
                unfinished.rename(path)
            # our own file, with objects of the pack in it
            self._known[key] = torch.load(path, weights_only=False)
        return self._known[key]

    @torch.inference_mode()
    def _tell(self, parts: Sequence[tuple[str, int]], inputs: Mapping[str, Any]) -> Story:
        takes = [self._take(tuple(parts[:count]), inputs) for count in range(1, len(parts) + 1)]
        done = MotionCacheFinishVideo.execute(takes[-1]).args
        plan = done[-1].trace.plan
        begins = tuple(min(call.row for call in plan.calls for part in call.parts if part.chunk == chunk.place)
                       for chunk in generated(plan))  # fmt: skip
        rows = max(call.row for call in plan.calls) + 1
        ends = (*(plan.calls[take.parked.next_call].row for take in takes), rows)
        finished = (*(len(take.finished) for take in takes), len(begins))
        return Story(self._frames(done[0]["samples"]), tuple(parts), begins, plan.steps, ends, finished)

    def _take(self, parts: tuple[tuple[str, int], ...], inputs: Mapping[str, Any]) -> Any:
        if parts not in self._takes:
            if not parts:
                self._takes[parts] = MotionCacheBeginVideo.execute(self._model, **inputs).args[0]
            else:
                before = self._take(parts[:-1], inputs)
                name, chunks = parts[-1]
                knobs = {**defaults_of(MotionCacheGenerateChunks), "guidance": TINY_SAMPLING["guidance"]}
                positive, negative = (MotionCacheLoadPrompt.execute(n).args[0] for n in (name, TINY_NEGATIVE))
                knobs |= {"chunks": chunks, "positive": positive, "negative": negative}
                self._takes[parts] = MotionCacheGenerateChunks.execute(before, **knobs).args[0]
        return self._takes[parts]

    def _frames(self, latents: torch.Tensor) -> np.ndarray:
        video = tiny_vae.decode(self._decoder, latents)[0].movedim(0, -1).add(1).div(2).clamp(0, 1)
        return (video * 255).round().byte().numpy()

    @torch.inference_mode()
    def _sample(self, cache: Mapping[str, Any] | None, inputs: Mapping[str, Any]) -> Made:
        model = self._model
        if cache is not None:
            model = MotionCacheApply.execute(model, **cache).args[0]
        positive, negative = (MotionCacheLoadPrompt.execute(name).args[0] for name in (TINY_PROMPT, TINY_NEGATIVE))
        if inputs["history"] == REENCODED:
            inputs = {**inputs, "vae": VAE(sd=load_torch_file(str(REPO / "tiny_world" / "vae" / TINY_VAE)))}
        latent, report, _, trace = MotionCacheAutoregressiveSampler.execute(model, positive, negative, **inputs).args
        return Made(self._frames(latent["samples"]), report, trace)

    @cached_property
    def _model(self) -> Any:
        return MotionCacheLoadSkyReelsV2.execute(TINY_MODEL, "default").args[0]

    @cached_property
    def _decoder(self) -> Any:
        return load_vae(REPO / "tiny_world" / "vae" / TINY_VAE)


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(REPO.glob(pattern)):
            digest.update(path.relative_to(REPO).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
