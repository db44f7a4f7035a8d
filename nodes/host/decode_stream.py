"""Decoding a video while its latents arrive: the same frames as decoding all of them at once.

What it takes to go on is a value, a :class:`DecodeStream`: two endings can be decoded from one middle, and
``motioncache_core.state.export`` turns it into tensors and plain data (``family=(DecodeStream,)``).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import comfy.ldm.wan.vae
import torch
from torch import Tensor

from .latents import InputError
from .magi1_vae import Magi1ComfyVae
from .wan_decoder import Cache, WanDecoder

PIECE = 3
"""Latent frames that are decoded between two looks at the video: 12 frames, and a row of MAGI-1's tiles."""


@dataclass(frozen=True)
class DecodeStream:
    """How far the decoding of a video has come, and what it takes to go on. Never changed, only followed by another.

    Args:
        family: whose VAE, ``wan`` or ``magi1``.
        size: batch, channels, rows and columns of the latents.
        taken: latent frames that have come in.
        given: video frames that have come out.
        waiting: ``[B, C, f, h, w]`` latents whose frames are not out yet, since the VAE decodes several at once.
        cache: features of the latest frames, one for each convolution over time (Wan).
        ended: all frames of the video are out; nothing is kept, since nothing can follow.
    """

    family: str
    size: tuple[int, ...]
    taken: int = 0
    given: int = 0
    waiting: Tensor | None = None
    cache: Cache = ()
    ended: bool = False

    @property
    def bytes(self) -> int:
        """Memory of its tensors."""
        return sum(t.nbytes for t in (*self.cache, self.waiting) if isinstance(t, Tensor))


class _Decoder(Protocol):
    """What a family brings: a network that is loaded, and the features of one video while a node decodes it."""

    first: int
    """Latent frames that are decoded at once at the beginning of a video."""
    group: int
    """The same, later on."""

    def take_up(self, stream: DecodeStream) -> None:
        """Go on from a stream. Raises InputError where it was not made by this VAE."""

    def decode(self, latents: Tensor, sizes: list[int], *, alone: bool) -> Tensor:
        """``[B, C, f, h, w]`` in parts of so many latent frames -> ``[B, F, H, W, 3]``.

        ``alone``: this is the whole video.
        """

    def features(self) -> Cache:
        """What the frames that follow need, where it lies."""


def check_decodable(vae: Any, latents: Tensor) -> None:
    """Raises InputError where the VAE cannot decode bit by bit, or not these latents."""
    _check_latents(latents)
    _family(vae)
    if latents.shape[1] != vae.latent_channels:
        raise InputError(f"the latent has {latents.shape[1]} channels; this VAE decodes {vae.latent_channels}")


class Decoding:
    """A video's decoding as far as one node has it: iterate over it, once, for its frames piece by piece.

    The network is made ready once, and features go to it and come back once, however many pieces there are.
    ``[B, F, H, W, 3]`` float32 images in 0..1 come out, where ComfyUI keeps images, F > 0.

    Args:
        vae: ComfyUI's VAE object with Wan's VAE (2.1) or MAGI-1's.
        stream: where the node before has left off; ``None`` at the beginning of a video.
        latents: ``[B, C, f, h, w]`` that come next, any number of latent frames, or ``None``.
        last: the video ends with them: frames that wait come out too.
        piece: latent frames to decode between two looks at the video. As many as the VAE decodes at once, if more.

    Attributes:
        stream: where to go on. Once all pieces are out, it is the one that follows, in main memory.
        decoded: latent frames of the video whose frames are out.

    Raises:
        InputError: the VAE is of another kind, or latents, stream and VAE do not belong together.
    """

    def __init__(
        self, vae: Any, stream: DecodeStream | None, latents: Tensor | None, *, last: bool, piece: int = PIECE
    ):
        if latents is not None:
            check_decodable(vae, latents)
            _check_follows(stream, latents)
            stream = stream or DecodeStream(_family(vae), _size(latents))
        if stream is not None and stream.family != _family(vae):
            raise InputError(
                f"the video so far was decoded by the {stream.family} VAE, and vae is a {_family(vae)} VAE"
            )
        self.stream = stream
        self.decoded = 0 if stream is None else stream.taken - _frames(stream.waiting)
        self._vae, self._latents, self._last, self._piece = vae, latents, last, piece

    def __iter__(self) -> Iterator[Tensor]:
        stream, latents = self.stream, self._latents
        if stream is None or stream.ended or (latents is None and not self._last):
            return
        self._latents = None  # a second look gives nothing twice
        following = replace(stream, taken=stream.taken + _frames(latents))
        there = [t for t in (stream.waiting, latents) if t is not None]
        if there:
            whole = torch.cat([t.to(there[-1]) for t in there], dim=2) if len(there) > 1 else there[0]
            following = yield from self._decode(following, whole)
        self.stream = replace(following, waiting=None, cache=(), ended=True) if self._last else following

    def _decode(self, stream: DecodeStream, whole: Tensor) -> Generator[Tensor, None, DecodeStream]:
        """Frames of the latents that are there, and the stream that follows if the video goes on."""
        decoder = _decoder(self._vae, (*whole.shape[:2], min(whole.shape[2], self._piece), *whole.shape[3:]))
        sizes = _parts(decoder, self.decoded, whole.shape[2], self._last)
        alone = self._last and not self.decoded
        given, begin = stream.given, 0
        if sizes:
            decoder.take_up(stream)
        for some in _in_pieces(sizes, self._piece):
            part = whole[:, :, begin : begin + sum(some)]
            images = decoder.decode(part, some, alone=alone and part.shape[2] == whole.shape[2])
            begin, given = begin + part.shape[2], given + images.shape[1]
            self.decoded += part.shape[2]
            yield images
            del images
        if self._last:
            return replace(stream, given=given)
        rest = whole[:, :, begin:]
        kept = decoder.features() if sizes else stream.cache
        return replace(
            stream,
            given=given,
            waiting=_kept(rest) if rest.shape[2] else None,
            cache=tuple(_kept(slot) if isinstance(slot, Tensor) else slot for slot in kept),
        )


def _parts(decoder: _Decoder, done: int, there: int, last: bool) -> list[int]:
    """How many latent frames are decoded at once, part by part: what a decode of the whole video does."""
    sizes = []
    while there:
        size = decoder.group if done else decoder.first
        if size > there:
            if not last:
                break
            size = there
        sizes.append(size)
        done, there = done + size, there - size
    return sizes


def _in_pieces(sizes: list[int], piece: int) -> Iterator[list[int]]:
    """The parts in order, together as many latent frames as a piece has, or just more."""
    some: list[int] = []
    for size in sizes:
        some.append(size)
        if sum(some) >= piece:
            yield some
            some = []
    if some:
        yield some


def _kept(tensor: Tensor) -> Tensor:
    """The tensor as a value of its own: in main memory, and never a part of a larger one."""
    kept = tensor.to("cpu")
    return kept.clone() if kept.untyped_storage().nbytes() > kept.nbytes else kept


def _family(vae: Any) -> str:
    if isinstance(vae, Magi1ComfyVae):
        return "magi1"
    network = getattr(vae, "first_stage_model", None)
    if isinstance(network, comfy.ldm.wan.vae.WanVAE):
        return "wan"
    raise InputError(
        f"vae is a {type(network or vae).__name__}; decoding bit by bit knows Wan's VAE (wan_2.1_vae.safetensors, "
        "stock Load VAE) and MAGI-1's (Load MAGI-1 VAE). Use VAE Decode for others"
    )


def _decoder(vae: Any, shape: tuple[int, ...]) -> _Decoder:
    return _Magi1Decoder(vae) if isinstance(vae, Magi1ComfyVae) else WanDecoder(vae, shape)


class _Magi1Decoder:
    """MAGI-1's VAE decodes rows of tiles, 3 latent frames each, that do not see one another."""

    def __init__(self, vae: Magi1ComfyVae):
        self._vae = vae
        self.first = self.group = vae.tiled.latent_frames

    def take_up(self, stream: DecodeStream) -> None:
        if stream.cache:
            raise InputError("the video so far holds features, which MAGI-1's VAE does not make; decode it anew")

    def decode(self, latents: Tensor, sizes: list[int], *, alone: bool) -> Tensor:
        return self._vae.decode_rows(latents, sizes, single_image=alone and latents.shape[2] == 1)

    def features(self) -> Cache:
        return ()


def _check_latents(latents: Tensor) -> None:
    if latents.ndim != 5 or not latents.shape[2]:
        raise InputError(
            f"the latent has shape {list(latents.shape)}; a video is [batch, channels, frames, rows, columns]"
        )


def _check_follows(stream: DecodeStream | None, latents: Tensor) -> None:
    if stream is None:
        return
    if stream.ended:
        raise InputError("the video has come to its end, no latent can follow; decode it anew with those")
    if _size(latents) != tuple(stream.size):
        raise InputError(
            f"the latents are {_words(_size(latents))}, but the video so far is {_words(stream.size)}; "
            "one video has one size"
        )


def _frames(latents: Tensor | None) -> int:
    return 0 if latents is None else latents.shape[2]


def _size(latents: Tensor) -> tuple[int, ...]:
    batch, channels, _, rows, columns = latents.shape
    return batch, channels, rows, columns


def _words(size: tuple[int, ...]) -> str:
    batch, channels, rows, columns = size
    return f"{batch} x {channels} channels of {columns} x {rows} latents"
