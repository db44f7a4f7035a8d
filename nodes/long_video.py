"""Saving videos that are too long to be decoded at once."""

from __future__ import annotations

from typing import Any

import comfy.utils
from comfy_api.latest import InputImpl, io, ui

from .host.decode_stream import Decoding, check_decodable
from .host.versions import search_aliases
from .host.video_file import new_video, saved_place, workflow_metadata


class MotionCacheSaveLongVideo(io.ComfyNode):
    """LATENT + VAE -> a video file, written while it is decoded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheSaveLongVideo",
            display_name="Save long video",
            category="MotionCache",
            **search_aliases("decode and save", "streaming decode", "VAE decode video"),
            description=(
                "Decodes a video and writes it to a file at the same time, a few frames at once: the same picture as "
                "VAE Decode and Save Video, in the memory of a short video. For Wan's and MAGI-1's VAE."
            ),
            inputs=[
                io.Latent.Input("samples", tooltip="The video, from a sampler; every video of a batch gets a file."),
                io.Vae.Input("vae", tooltip="The VAE of the model: wan_2.1_vae for SkyReels-V2, MAGI-1's for MAGI-1."),
                io.Float.Input(
                    "fps", default=24.0, min=1.0, max=120.0, step=0.01, tooltip="Frames a second: higher plays faster."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="video/MotionCache",
                    tooltip="Name in the output folder; a number is added. Takes what Save Video takes, like "
                    "%date:yyyy-MM-dd%.",
                ),
                io.Int.Input(
                    "crf",
                    default=19,
                    min=0,
                    max=51,
                    tooltip="How coarse the file is: lower looks better and is larger; 19 is hard to tell from the "
                    "original, 0 loses nothing but colour detail.",
                ),
                io.Audio.Input("audio", optional=True, tooltip="Sound for the video; cut where the video ends."),
            ],
            outputs=[
                io.Video.Output(
                    display_name="VIDEO", is_output_list=True, tooltip="The file as it was saved, one for each video."
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        samples: dict[str, Any],
        vae: Any,
        fps: float,
        filename_prefix: str,
        crf: int,
        audio: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        latents = samples["samples"]
        check_decodable(vae, latents)
        count, _, frames, rows, columns = latents.shape
        side = vae.spacial_compression_decode()
        progress = comfy.utils.ProgressBar(count * frames)
        paths = []
        for track in range(count):
            with new_video(
                filename_prefix,
                columns * side,
                rows * side,
                fps,
                node_id=None if cls.hidden is None else cls.hidden.unique_id,
                crf=crf,
                metadata=workflow_metadata(cls.hidden),
                audio=audio,
                track=track,
            ) as video:
                decoding = Decoding(vae, None, latents[track : track + 1], last=True)
                for images in decoding:
                    video.write(images[0])
                    progress.update_absolute(track * frames + decoding.decoded)
            paths.append(video.path)
        shown = [ui.SavedResult(*saved_place(path), io.FolderType.output) for path in paths]
        return io.NodeOutput([InputImpl.VideoFromFile(str(path)) for path in paths], ui=ui.PreviewVideo(shown))


NODES = [MotionCacheSaveLongVideo]
