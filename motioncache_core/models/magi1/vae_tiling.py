"""Encoding and decoding in tiles, as MAGI-1 always does: 12 frames x 256 x 256 pixels, a quarter of each side shared.

In time, tiles do not overlap, so every row of tiles in time is whole by itself: a video is encoded and decoded one such
row after the other, and latents may arrive bit by bit. In space, neighbours are blended linearly, first downwards, then
to the right: latents against neighbours that are blended already, pixels against neighbours as they were decoded (both
as in the original).
Source of the rules: the public code of SandAI-org/MAGI-1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .vae import Magi1Vae
from .vae_config import VaeConfig

SCALE_FACTOR = 0.18215
"""The transformer works on latents times this."""

ONE_FRAME_QUIRK = "single_latent_tile_one_frame"
"""The original decodes a tile of one latent frame to one frame, also in the middle of a video."""

ACTIVATIONS = 40
"""Largest number of tensors of the residual stream's size that live at once, measured with a margin."""


@dataclass(frozen=True)
class Tiling:
    """Sizes of a tile, all of them multiples of a patch's.

    Args:
        frames: pixel frames.
        height, width: pixels.
        overlap: share of height and width that neighbours have in common.
        blend_dtype: precision of blending; the original's encoder blends in the precision of the latents.
    """

    frames: int = 12
    height: int = 256
    width: int = 256
    overlap: float = 0.25
    blend_dtype: torch.dtype = torch.float32


class TiledVae:
    """A VAE that encodes and decodes in tiles.

    Args:
        network: encodes and decodes one tile.
        tiling: sizes of the tiles.

    Raises:
        ValueError: tiles, or what they do not share, are not whole latents.
    """

    def __init__(self, network: Magi1Vae, tiling: Tiling | None = None):
        self.network = network
        self.tiling = tiling or Tiling()
        config = network.config
        self.length, self.side = config.patch_length, config.patch_size
        sizes = (self.tiling.height, self.tiling.width)
        whole = [*sizes, *(_stride(size, self.tiling.overlap) for size in sizes)]
        if any(size % self.side for size in whole) or self.tiling.frames % self.length:
            raise ValueError(f"{self.tiling} does not divide into latents of {self.length} x {self.side} x {self.side}")
        self.pixel_tile = sizes
        self.latent_tile = (sizes[0] // self.side, sizes[1] // self.side)
        self.latent_frames = self.tiling.frames // self.length

    def encode(self, video: Tensor, on_tile: Callable[[], None] = lambda: None) -> Tensor:
        """``[B, 3, T, H, W]`` in -1..1 -> ``[B, 16, t, h, w]`` means, unscaled, in the weights' dtype.

        A tile of one frame is repeated to fill one latent frame (a single image, or T = 12k + 1). Rows of tiles in
        time (12 frames) are independent, so they may as well be encoded one by one.

        Args:
            on_tile: called after every tile.

        Raises:
            ValueError: the last tile in time has fewer frames than a latent frame, but more than one.
        """
        parts = []
        for begin in range(0, video.shape[2], self.tiling.frames):
            part = video[:, :, begin : begin + self.tiling.frames]
            rows = _map(part, self.pixel_tile, self.tiling.overlap, self.network.encode, on_tile)
            parts.append(_blended(rows, self.latent_tile, self.tiling, in_place=True))
        return torch.cat(parts, dim=2)

    def decode(self, latent: Tensor, *, single_image: bool = False, quirks: frozenset[str] = frozenset()) -> Tensor:
        """``[B, 16, t, h, w]`` unscaled -> ``[B, 3, 4t, 8h, 8w]`` about -1..1, in the weights' dtype.

        Args:
            single_image: the one latent frame stands for an image; one frame comes back.
            quirks: may hold ``single_latent_tile_one_frame``.
        """
        stream = self.stream(single_image=single_image, quirks=quirks)
        return torch.cat([*stream.push(latent), *stream.finish()], dim=2)

    def stream(
        self,
        *,
        single_image: bool = False,
        quirks: frozenset[str] = frozenset(),
        on_tile: Callable[[], None] = lambda: None,
    ) -> DecodeStream:
        """Decodes latents as they arrive; arguments as for :meth:`decode`."""
        return DecodeStream(self, single_image or ONE_FRAME_QUIRK in quirks, on_tile)

    def tiles(self, frames: int, height: int, width: int) -> int:
        """Number of tiles that a video, given in latent frames, rows and columns, is decoded in."""
        down, right = (_stride(size, self.tiling.overlap) for size in self.latent_tile)
        return -(-frames // self.latent_frames) * -(-height // down) * -(-width // right)

    def decode_row(self, latent: Tensor, single_image: bool, on_tile: Callable[[], None]) -> Tensor:
        """The frames of one row of tiles in time: ``[B, 16, <= 3, h, w]`` -> ``[B, 3, <= 12, 8h, 8w]``."""
        single = single_image and latent.shape[2] == 1

        def decode_tile(tile: Tensor) -> Tensor:
            return self.network.decode(tile, single_image=single)

        rows = _map(latent, self.latent_tile, self.tiling.overlap, decode_tile, on_tile)
        return _blended(rows, self.pixel_tile, self.tiling, in_place=False)


class DecodeStream:
    """Frames of latents that arrive in pieces: the same as decoding all of them at once.

    Latents that do not fill a row of tiles (3 latent frames) wait for the next piece or for :meth:`finish`. MAGI-1's
    chunks of 6 latents leave nothing waiting.
    """

    def __init__(self, vae: TiledVae, single_image: bool, on_tile: Callable[[], None]):
        self._vae, self._single_image, self._on_tile = vae, single_image, on_tile
        self._waiting: Tensor | None = None

    def push(self, latent: Tensor) -> Iterator[Tensor]:
        """``[B, 16, t, h, w]`` that follow in time -> ``[B, 3, 12, 8h, 8w]`` for every row of tiles that is complete.

        Latents are taken at once; frames are computed as the iterator advances, which has to be run to its end.
        """
        whole = latent if self._waiting is None else torch.cat((self._waiting, latent), dim=2)
        length = self._vae.latent_frames
        complete = whole.shape[2] // length * length
        self._waiting = whole[:, :, complete:] if complete < whole.shape[2] else None
        return (self._decode(whole[:, :, begin : begin + length]) for begin in range(0, complete, length))

    def finish(self) -> Iterator[Tensor]:
        """Frames of the latents that still wait; the stream can be used anew afterwards."""
        rest, self._waiting = self._waiting, None
        return (self._decode(row) for row in ([] if rest is None else [rest]))

    def _decode(self, row: Tensor) -> Tensor:
        return self._vae.decode_row(row, self._single_image, self._on_tile)


def bytes_needed(config: VaeConfig, batch: int, width: int, dtype: torch.dtype, tiling: Tiling | None = None) -> int:
    """Memory for encoding or decoding beside the weights, about: one tile's activations, two rows of decoded tiles.

    It does not grow with the length or the height of a video.

    Args:
        width: pixels.
        dtype: of the weights.
    """
    tiling = tiling or Tiling()
    pixels = tiling.frames * tiling.height * tiling.width
    tokens = pixels // config.patch_volume
    tile = ACTIVATIONS * tokens * config.embed_dim * dtype.itemsize
    in_row = -(-width // _stride(tiling.width, tiling.overlap))
    row = in_row * pixels * config.in_chans * (2 * dtype.itemsize + 2 * tiling.blend_dtype.itemsize)
    return batch * (tile + row)


def _stride(size: int, overlap: float) -> int:
    return int(size * (1 - overlap))


def _map(
    volume: Tensor,
    sizes: tuple[int, int],
    overlap: float,
    function: Callable[[Tensor], Tensor],
    on_tile: Callable[[], None],
) -> Iterator[list[Tensor]]:
    """A function of every tile, row by row. The last tiles may lie wholly inside their neighbours."""
    (height, width), (down, right) = sizes, (_stride(size, overlap) for size in sizes)
    for top in range(0, volume.shape[3], down):
        row = []
        for left in range(0, volume.shape[4], right):
            row.append(function(volume[:, :, :, top : top + height, left : left + width]))
            on_tile()
        yield row


def _blended(rows: Iterator[list[Tensor]], sizes: tuple[int, int], tiling: Tiling, *, in_place: bool) -> Tensor:
    """Tiles joined to one volume, with their dtype; ``sizes``: height and width of a full tile.

    Args:
        in_place: blend against neighbours that are blended already, instead of as they came.
    """
    down, right = (int(size * tiling.overlap) for size in sizes)
    kept = (..., slice(sizes[0] - down), slice(sizes[1] - right))
    strips: list[Tensor] = []
    above: list[Tensor] = []
    for row in rows:
        done: list[Tensor] = []
        for j, tile in enumerate(row):
            blended = tile.to(tiling.blend_dtype)
            if above:
                blended = _blend(above[j], blended, down, dim=3)
            if j:
                blended = _blend((done if in_place else row)[j - 1], blended, right, dim=4)
            done.append(blended)
        strips.append(torch.cat([tile[kept] for tile in done], dim=4).to(row[0].dtype))
        above = done if in_place else row
    return torch.cat(strips, dim=3)


def _blend(before: Tensor, tile: Tensor, extent: int, dim: int) -> Tensor:
    """The tile, its first ``extent`` lines along ``dim`` faded over from the last ones of the tile before."""
    extent = min(before.shape[dim], tile.shape[dim], extent)
    shape = [1] * tile.ndim
    shape[dim] = extent
    weight = (torch.arange(extent, device=tile.device) / max(extent, 1)).view(shape)
    tail = before.narrow(dim, before.shape[dim] - extent, extent).float() * (1 - weight)
    head = tile.narrow(dim, 0, extent).float() * weight
    rest = tile.narrow(dim, extent, tile.shape[dim] - extent)
    return torch.cat((tail.to(tile.dtype) + head.to(tile.dtype), rest), dim=dim)
