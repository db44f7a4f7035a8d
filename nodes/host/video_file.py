"""Writing a video file while its frames come, as ComfyUI's Save Video writes one: H.264 in MP4, the workflow in it.

The file bears the word ``partial`` in its name until its last frame is in; whatever stops it, what was written by then
is a whole video.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import comfy.cli_args
import folder_paths
import torch
from torch import Tensor

from .latents import InputError
from .notify import notify

logger = logging.getLogger(__name__)

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
OTHER_RATE = 48000
"""Sound of any other rate is resampled to this."""


class VideoFile:
    """A video file that takes frames piece by piece and holds none of them but those in the encoder's view.

    Args:
        path: of an MP4 file; one that is there is replaced.
        width, height: pixels, even.
        fps: frames a second.
        crf: quality of x264: 0 loses nothing, higher is smaller and coarser, up to 51.
        metadata: written into the file as JSON, one entry a key.
        audio: ComfyUI's AUDIO (``waveform`` ``[B, channels, samples]``, ``sample_rate``), of which the first two
            channels are used; cut where the video ends.
        track: which of the audio's batch; the last one where there are fewer.

    Raises:
        InputError: a size that H.264 cannot have.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        fps: float,
        *,
        crf: int = 19,
        metadata: Mapping[str, Any] | None = None,
        audio: Mapping[str, Any] | None = None,
        track: int = 0,
    ):
        check_size(width, height)
        self.path, self.width, self.height = path, width, height
        self.rate = Fraction(round(fps * 1000), 1000)  # as Save Video rounds it
        self.frames = 0
        self._container = av.open(str(path), mode="w", format="mp4", options={"movflags": "use_metadata_tags"})
        try:
            for key, value in (metadata or {}).items():
                self._container.metadata[key] = json.dumps(value)
            self._stream = self._container.add_stream("h264", rate=self.rate, options={"crf": str(crf)})
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._sound = None if audio is None else _Sound(self._container, audio, track)
        except BaseException:
            self._container.close()
            path.unlink(missing_ok=True)
            raise
        self._open, self.playable = True, False

    def write(self, images: Tensor) -> None:
        """``[N, H, W, 3]`` images in 0..1 that come next; N may be 0.

        Raises:
            InputError: they have another size.
        """
        if tuple(images.shape[1:3]) != (self.height, self.width):
            found = f"{images.shape[2]} x {images.shape[1]}"
            raise InputError(f"the frames are {found} pixels, those before them {self.width} x {self.height}")
        for image in images:
            pixels = (image[..., :3] * 255).clamp(0, 255).to(torch.uint8).cpu().numpy()
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = self.frames, 1 / self.rate
            self._container.mux(self._stream.encode(frame))
            self.frames += 1
        if self._sound is not None:  # together with the pictures, or packets of one would pile up until the other comes
            self._sound.write_until(self.frames / self.rate)

    def close(self) -> None:
        """Write what the encoders still hold, and the index, without which no player opens the file.

        ``playable`` says afterwards whether that went well. A second call does nothing.
        """
        if not self._open:
            return
        self._open = False
        try:
            if self.frames:
                self._container.mux(self._stream.encode(None))
                if self._sound is not None:
                    self._sound.finish()
        finally:
            self._container.close()
        self.playable = self.frames > 0


class _Sound:
    """An audio track that is written along with the frames."""

    def __init__(self, container: Any, audio: Mapping[str, Any], track: int):
        waveform, rate = audio["waveform"], int(audio["sample_rate"])
        self._samples = waveform[min(track, len(waveform) - 1), :2].float().cpu()
        self._rate, self._done, self._container = rate, 0, container
        self._layout = "mono" if len(self._samples) == 1 else "stereo"
        self._stream = container.add_stream("aac", rate=rate if rate in AAC_RATES else OTHER_RATE, layout=self._layout)

    def write_until(self, seconds: Fraction) -> None:
        end = min(math.ceil(seconds * self._rate), self._samples.shape[1])
        if end <= self._done:
            return
        part = self._samples[:, self._done : end].contiguous().numpy()
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=self._layout)
        frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), self._done
        self._container.mux(self._stream.encode(frame))
        self._done = end

    def finish(self) -> None:
        if self._done:
            self._container.mux(self._stream.encode(None))


def check_size(width: int, height: int) -> None:
    """Raises InputError where H.264 (with colours at half the size) has no such size."""
    if width % 2 or height % 2 or width < 2 or height < 2:
        nearest = " x ".join(str(max(2, size - size % 2)) for size in (width, height))
        raise InputError(
            f"the frames are {width} x {height} pixels; an MP4 video needs even sizes (nearest: {nearest})"
        )


@contextmanager
def new_video(
    prefix: str,
    width: int,
    height: int,
    fps: float,
    *,
    node_id: str | None = None,
    **options: Any,
) -> Iterator[VideoFile]:
    """A numbered video file in ComfyUI's output folder; ``options`` as for :class:`VideoFile`.

    While it is written, and for good where the block is left by an error or an interrupt, its name ends in
    ``partial.mp4``; a message on the node and in the log then says where it is. One without a frame is taken away.
    Afterwards ``path`` is where it lies.

    Args:
        prefix: as in Save Video: a name with folders, ``%date%`` and so on.
        node_id: the node that gets the message.
    """
    check_size(width, height)
    folder, name, counter, _, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    path = Path(folder) / f"{name}_{counter:05}_partial.mp4"
    video = VideoFile(path, width, height, fps, **options)
    try:
        yield video
        video.close()
    except BaseException:
        _leave(video, node_id)
        raise
    video.path = path.with_name(f"{name}_{counter:05}_.mp4")
    os.replace(path, video.path)
    logger.info("Saved %d frames of %d x %d to %s", video.frames, width, height, video.path)


def write_video(
    pieces: Iterable[Tensor], prefix: str, width: int, height: int, fps: float, **options: Any
) -> VideoFile:
    """A video file of all frames, ``[N, H, W, 3]`` at a time; arguments as for :func:`new_video`."""
    with new_video(prefix, width, height, fps, **options) as video:
        for images in pieces:
            video.write(images)
    return video


def saved_place(path: Path) -> tuple[str, str]:
    """(file name, folder below ComfyUI's output folder) as the front end is told them."""
    below = path.parent.relative_to(folder_paths.get_output_directory())
    return path.name, "" if below == Path() else str(below)


def workflow_metadata(hidden: Any) -> dict[str, Any] | None:
    """What Save Video stores, from a node's hidden inputs: prompt and workflow; None where that is switched off."""
    if hidden is None or comfy.cli_args.args.disable_metadata:
        return None
    stored = dict(hidden.extra_pnginfo or {})
    if hidden.prompt is not None:
        stored["prompt"] = hidden.prompt
    return stored or None


def _leave(video: VideoFile, node_id: str | None) -> None:
    """Finish a file that gets no more frames. Never raises: what stopped it is to be heard."""
    try:
        video.close()
    except Exception:
        logger.exception("The unfinished video %s could not be closed.", video.path)
    if not video.frames:
        video.path.unlink(missing_ok=True)
        return
    stopped = f"Stopped after {video.frames} frames ({float(video.frames / video.rate):.1f} s)."
    if video.playable:
        notify(node_id, f"{stopped} The video so far can be played: {video.path}")
    else:
        notify(node_id, f"{stopped} The file could not be finished, and players may refuse it: {video.path}")
