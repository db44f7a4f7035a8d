"""A take as ComfyUI passes it from node to node: everything that going on needs, as a value that nobody changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...motioncache_core.config import CacheConfig
from ...motioncache_core.plan import Plan
from ...motioncache_core.report import Report
from ...motioncache_core.take import Growth, Parked, generated
from ...motioncache_core.trace import Trace
from .chunk_session import ChunkSession
from .decode_stream import DecodeStream
from .latents import SPATIAL
from .model_support import FAMILY_NAMES, family_of, why_not_served
from .roles import UnsupportedError

KEPT_AS_COMPUTED, KEPT_FINISHED = "as computed", "finished chunks"
KEPT: dict[str, torch.dtype | None] = {
    KEPT_AS_COMPUTED: None,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "nothing": None,
    KEPT_FINISHED: None,
}
"""How keys and values are kept between nodes: precision, ``None`` for none. :data:`KEPT_AS_COMPUTED` and
:data:`KEPT_FINISHED` (those of finished chunks only) keep the store's.
"""


@dataclass(frozen=True)
class Stretch:
    """What one node adds to a take: chunks, and what they are made with until they are clean.

    Args:
        first: number of its first chunk.
        chunks: how many.
        seed: of their noise.
        model: MODEL.
        positive, negative: CONDITIONING; ``None`` where the family or the guidance needs none.
        guidance: strength; families with a rule of their own ignore it.
        cache: settings that act on them, ``None``: none.
        inactive: why the MODEL's settings do not act, if they do not.
    """

    first: int
    chunks: int
    seed: int
    model: Any
    positive: Any
    negative: Any
    guidance: float
    cache: Any = None
    inactive: str | None = None


@dataclass
class Lane:
    """A stretch's guider and session while a take is being gone on with.

    Args:
        patcher: MODEL as the guider has it.
        model_wrap, extra_args: what the guider's run gives a SAMPLER; there while it samples.
    """

    stretch: Stretch
    guider: Any
    session: ChunkSession
    patcher: Any
    model_wrap: Any = None
    extra_args: dict[str, Any] | None = None
    relay: Any = None


@dataclass(frozen=True)
class TakeSettings(ABC):
    """What holds for a whole take, whatever its stretches say.

    Args:
        growth: plans.
        width, height: pixels.
        batch: videos made at once.
        seed: of the first stretch.
        kv_precision: of keys and values, a key of ``KV_PRECISIONS``; ``kv_on_cpu``: where they live.
        keep: of :data:`KEPT`.
    """

    growth: Growth
    width: int
    height: int
    batch: int
    seed: int
    kv_precision: str
    kv_on_cpu: bool
    keep: str

    family: ClassVar[str]
    takes_negative: ClassVar[bool] = True
    solver: ClassVar[str]
    state_classes: ClassVar[tuple[type, ...]]
    """The family's classes in a run's memory."""
    file_classes: ClassVar[tuple[type, ...]]
    """Its classes in a take's settings and stretches, for files."""

    @property
    def latent_size(self) -> tuple[int, int]:
        return self.height // SPATIAL, self.width // SPATIAL

    def check_family(self, model: Any) -> None:
        """Raise UnsupportedError for a MODEL of another family than the take was begun with."""
        if why_not_served(model, self.family) is not None:
            found = FAMILY_NAMES.get(family_of(model), f"a {type(model.model).__name__}")
            raise UnsupportedError(
                f"model is {found}, but this take was begun with {FAMILY_NAMES[self.family]}; connect a MODEL of that "
                "family"
            )

    @abstractmethod
    def check(self, stretch: Stretch, before: tuple[Stretch, ...], earlier: Any) -> list[str]:
        """Notices about a stretch. Raises ValueError for what cannot be made.

        Args:
            before: the stretches before it; ``earlier``: MODEL of the last of them, or that the take was begun with.
        """

    def closing(self, stretches: tuple[Stretch, ...]) -> str | None:
        """A notice about the end of a take."""
        return None

    def with_vae(self, vae: Any) -> TakeSettings:
        """The same with a VAE for the colours of previews, where the family needs one."""
        return self

    @abstractmethod
    def active(self, model: Any, plan: Plan) -> tuple[CacheConfig | None, str | None]:
        """(a MODEL's cache settings as they act on a plan, why they do not)."""

    @abstractmethod
    def lane(self, stretch: Stretch, plan: Plan, state: Any, off: bool) -> Lane:
        """A guider and a session for the calls of a stretch's chunks.

        Args:
            off: a stretch without cache gets a policy that computes everything, as others beside it have one.
        """

    @abstractmethod
    def count_store(self, lanes: Sequence[Lane], plan: Plan) -> None:
        """Let the last lane's estimate of memory, which ComfyUI makes last, see the store that all share."""

    @abstractmethod
    def grid(self, stretch: Stretch) -> tuple[int, int]:
        """Token rows and columns of a latent frame."""

    @abstractmethod
    def report(self, stretch: Stretch, plan: Plan) -> Report:
        """An empty report."""

    @abstractmethod
    def colours_format(self, stretch: Stretch) -> Any:
        """Latent format for previews."""

    @abstractmethod
    def callback(self, patcher: Any, total: int) -> Any:
        """ComfyUI's progress and preview callback."""


@dataclass(frozen=True)
class Take:
    """A video in the making.

    Args:
        model: MODEL that it was begun with.
        given: ``[B, 16, f, h, w]`` latents that it begins with, in the VAE's units, or ``None``.
        stretches: what was added, in order.
        finished: clean latents of each chunk so far, in order, in model units, in main memory.
        parked: where it stands; ``None``: not begun.
        report, trace: of all calls so far.
        decoded: chunks that *Decode chunk* has turned into frames, and ``stream``, what it takes to decode on.
        complete: nothing is in flight, and nothing follows.
        origin: the file that it was loaded from, or grew from.
    """

    settings: TakeSettings
    model: Any
    given: Tensor | None = None
    stretches: tuple[Stretch, ...] = ()
    finished: tuple[Tensor, ...] = ()
    parked: Parked | None = None
    report: Report | None = None
    trace: Trace | None = None
    decoded: int = 0
    stream: DecodeStream | None = None
    complete: bool = False
    origin: Path | None = None

    @property
    def chunks(self) -> int:
        """Chunks that have entered, or will when the stretch that was interrupted goes on."""
        return sum(stretch.chunks for stretch in self.stretches)

    def latents(self, first: int = 0, with_given: bool = True) -> Tensor | None:
        """``[B, 16, F, h, w]`` of the given frames and of the finished chunks from one on, in the VAE's units; ``None``
        if there are none.
        """
        parts = []
        if with_given and self.given is not None:
            begin = generated(self.settings.growth.plan(1))[0].start
            if begin:  # MAGI-1 makes the chunk that is only partly given: its frames come with that chunk
                parts.append(self.given[:, :, :begin].float().cpu())
        if self.finished[first:]:
            parts.append(self.model.model.process_latent_out(torch.cat(self.finished[first:], dim=2)))
        return torch.cat(parts, dim=2) if parts else None

    def bytes_beside(self, before: Take) -> int:
        """Main memory that the take holds beside an earlier one of the same chain."""
        fresh = self.finished[len(before.finished) :]
        latents = sum(tensor.nbytes for tensor in fresh)
        return latents + (0 if self.parked is None else self.parked.bytes_beside(before.parked))

    def without_memory(self) -> Take:
        """The same, smaller: keys and values are made again from latents, not exactly, and decoding begins anew."""
        parked = None if self.parked is None else self.parked.without_pages()
        return replace(self, parked=parked, decoded=0, stream=None)

    def stretch_of(self, number: int) -> int:
        """Index of the stretch that a chunk belongs to; given ones belong to the first."""
        return max(i for i, stretch in enumerate(self.stretches) if stretch.first <= max(number, 0))
