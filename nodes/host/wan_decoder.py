"""ComfyUI's Wan VAE, decoded in parts: its decoder is causal and takes the features of earlier frames from a list.

How many latent frames ComfyUI hands to the decoder at once, and how long that list is, differs between its versions. So
a video of a few pixels is decoded first, and what ComfyUI itself hands over is watched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.model_management as management
import torch
from torch import Tensor

from .latents import InputError

WATCHED = 6
"""Latent frames of the video that is watched; enough to see the size of a group up to 4."""

Cache = tuple[Tensor | str | None, ...]


class WanDecoder:
    """The network, loaded, and the features of one video while it is decoded part by part.

    Features stay where the network is from part to part. Only where a batch is decoded a few videos at a time, as
    ComfyUI's own decode does when memory is short, those of the others wait in main memory.

    Args:
        vae: ComfyUI's VAE object with a ``comfy.ldm.wan.vae.WanVAE``.
        shape: ``[B, C, f, h, w]`` of the latents of a piece.

    Raises:
        InputError: this version of ComfyUI decodes in another way.
    """

    first = 1

    def __init__(self, vae: Any, shape: tuple[int, ...]):
        self._vae, self._network = vae, vae.first_stage_model
        self._memory = vae.memory_used_decode(shape, vae.vae_dtype)
        forced = {"force_full_load": True} if getattr(vae, "disable_offload", False) else {}
        management.load_models_gpu([vae.patcher], memory_required=self._memory, **forced)
        self.group, self._examples = self._watched()
        at_once = max(1, int(management.get_free_memory(vae.device) / self._memory))
        self._videos = [slice(begin, begin + at_once) for begin in range(0, shape[0], at_once)]
        self._slots: list[list[Any]] = [[None] * len(self._examples) for _ in self._videos]

    def take_up(self, stream: Any) -> None:
        """Go on from a stream. Raises InputError where its features are not those of this network and size."""
        if not stream.given:
            return
        if len(stream.cache) != len(self._examples) or not all(self._fits(stream)):
            raise InputError(
                "the video so far was decoded by another VAE or another version of ComfyUI, whose features do not fit; "
                "decode it from its beginning"
            )
        self._slots = [[_part(slot, some) for slot in stream.cache] for some in self._videos]

    def _fits(self, stream: Any) -> Iterator[bool]:
        """Of every slot whether channels and size are those of this network."""
        batch, _, rows, columns = stream.size
        for found, example in zip(stream.cache, self._examples, strict=True):
            if isinstance(found, Tensor):
                channels, side = (example.shape[1], example.shape[3]) if isinstance(example, Tensor) else (0, 0)
                expected = (batch, channels, rows * side, columns * side)
                yield found.ndim == 5 and (*found.shape[:2], *found.shape[3:]) == expected

    def decode(self, latents: Tensor, sizes: list[int], *, alone: bool) -> Tensor:
        """``[B, C, f, h, w]`` -> ``[B, F, H, W, 3]`` images; the features become those that the next frames need."""
        images = []
        try:
            for some, slots in zip(self._videos, self._slots, strict=True):
                images.append(self._decode(latents[some], sizes, slots))
                if len(self._videos) > 1:
                    _move(slots, device="cpu")
        except management.OOM_EXCEPTION as error:
            raise type(error)(self._out_of_memory(latents)) from error
        return torch.cat(images)

    def features(self) -> Cache:
        """Of all videos, one for each convolution over time."""
        return tuple(_joined(slots) for slots in zip(*self._slots, strict=True))

    def _decode(self, latents: Tensor, sizes: list[int], slots: list[Any]) -> Tensor:
        """Images of some of the videos; their features in ``slots`` are replaced, one by one."""
        vae = self._vae
        _move(slots, device=vae.device, dtype=vae.vae_dtype)
        images = []
        for part in self._network.conv2(latents.to(vae.vae_dtype).to(vae.device)).split(sizes, dim=2):
            management.throw_exception_if_processing_interrupted()
            for frames in _as_list(self._network.decoder(part, feat_cache=slots, feat_idx=[0])):
                images.append(vae.process_output(frames.to(vae.output_device).float()).movedim(1, -1))
        return torch.cat(images, dim=1)

    def _watched(self) -> tuple[int, list[Any]]:
        """(latent frames that ComfyUI decodes at once after the first one, the features of one latent's width)."""
        calls: list[tuple[int, Any]] = []

        def watch(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            calls.append((args[0].shape[2] if args else 0, kwargs.get("feat_cache")))

        network, vae = self._network, self._vae
        hook = network.decoder.register_forward_pre_hook(watch, with_kwargs=True)
        try:
            little = torch.zeros(1, vae.latent_channels, WATCHED, 1, 1, dtype=vae.vae_dtype, device=vae.device)
            network.decode(little)
        finally:
            hook.remove()
        frames = [count for count, _ in calls]
        group = frames[1] if len(frames) > 2 else 0
        even = group and frames == [1] + [group] * ((WATCHED - 1) // group) + [r for r in [(WATCHED - 1) % group] if r]
        if not even or not all(isinstance(cache, list) and cache is calls[0][1] for _, cache in calls):
            raise InputError(
                "this version of ComfyUI decodes Wan's VAE in another way than the pack knows; use VAE Decode, and "
                "look for a newer version of the pack"
            )
        return group, calls[0][1]

    def _out_of_memory(self, latents: Tensor) -> str:
        side = self._vae.spacial_compression_decode()
        return (
            f"Out of memory while decoding: frames of {latents.shape[-1] * side} x {latents.shape[-2] * side} take "
            f"about {self._memory / 2**30:.1f} GiB, however long the video is. Free memory, make the video smaller, "
            "start ComfyUI with --cpu-vae, or use VAE Decode (Tiled), which holds the whole video"
        )


def _as_list(frames: Any) -> list[Tensor]:
    """Newer versions of ComfyUI return a list of pieces."""
    return list(frames) if isinstance(frames, (list, tuple)) else [frames]


def _move(slots: list[Any], **where: Any) -> None:
    for index, slot in enumerate(slots):
        if isinstance(slot, Tensor):
            slots[index] = slot.to(**where)


def _part(slot: Any, some: slice) -> Any:
    return slot[some] if isinstance(slot, Tensor) else slot


def _joined(slots: tuple[Any, ...]) -> Any:
    """One slot of all parts of the batch: tensors, or the same mark in all of them."""
    return torch.cat(slots) if isinstance(slots[0], Tensor) and len(slots) > 1 else slots[0]
