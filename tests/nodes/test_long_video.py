"""Saving a video while it is decoded: the file as players and Save Video's readers see it, and what an error leaves."""

from __future__ import annotations

import importlib
import json
import logging
import signal
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from tools import tiny_checkpoints

WIDTH, HEIGHT = 64, 48


@pytest.fixture(scope="module")
def video_file(pack: ModuleType) -> ModuleType:
    return importlib.import_module("motioncache.nodes.host.video_file")


@pytest.fixture(scope="module")
def node(pack: ModuleType) -> Any:
    return importlib.import_module("motioncache.nodes.long_video").MotionCacheSaveLongVideo


@pytest.fixture(scope="module")
def vae(pack: ModuleType) -> Any:
    import comfy.sd

    return comfy.sd.VAE(sd=tiny_checkpoints.vae(), dtype=torch.float32)


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's output folder, empty."""
    import folder_paths

    folder = tmp_path / "output"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(folder))
    return folder


@pytest.fixture
def with_workflow(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hidden inputs as ComfyUI fills them."""
    hidden = SimpleNamespace(prompt={"1": {"inputs": {}}}, extra_pnginfo={"workflow": {"nodes": []}}, unique_id="1")
    monkeypatch.setattr(node, "hidden", hidden)


def latents(frames: int, count: int = 1) -> Tensor:
    return torch.randn(count, 16, frames, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(frames))


def pictures(frames: int, width: int = WIDTH, height: int = HEIGHT) -> Tensor:
    """A bright square that moves over a gradient: ``[N, H, W, 3]``."""
    images = torch.linspace(0, 0.5, width).view(1, 1, width, 1).repeat(frames, height, 1, 3)
    for index, image in enumerate(images):
        image[8:24, index % 40 : index % 40 + 16, 0] = 1.0
    return images


def read(path: Path) -> SimpleNamespace:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        facts = {"codec": stream.codec_context.name, "pix_fmt": stream.pix_fmt, "rate": stream.average_rate}
        return SimpleNamespace(frames=frames, metadata=dict(container.metadata), size=path.stat().st_size, **facts)


def sound(path: Path) -> tuple[np.ndarray, int]:
    with av.open(str(path)) as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
        return np.concatenate(parts, axis=1), container.streams.audio[0].rate


def test_the_file_is_what_save_video_writes(node, vae, output, with_workflow, tmp_path):
    from comfy_api.latest import InputImpl, Types
    from comfy_extras.nodes_video import SaveVideo

    samples = latents(7)
    made = node.execute({"samples": samples}, vae, 23.976, "long/take %width%", 23)
    (video,) = made.args[0]
    path = output / "long" / "take 64_00001_.mp4"
    assert video.get_stream_source() == str(path)
    assert [*output.rglob("*.*")] == [path]
    ours = read(path)
    assert ours.frames.shape == (25, HEIGHT, WIDTH, 3)
    assert (ours.codec, ours.pix_fmt, ours.rate) == ("h264", "yuv420p", Fraction(23976, 1000))
    assert video.get_dimensions() == (WIDTH, HEIGHT)
    assert made.ui.as_dict()["images"] == [{"filename": path.name, "subfolder": "long", "type": "output"}]
    assert made.ui.as_dict()["animated"] == (True,)

    images = vae.decode(samples)[0]
    components = Types.VideoComponents(images=images, frame_rate=Fraction(23976, 1000))
    metadata = {"workflow": {"nodes": []}, "prompt": {"1": {"inputs": {}}}}
    InputImpl.VideoFromComponents(components).save_to(str(tmp_path / "stock.mp4"), metadata=metadata)
    stock = read(tmp_path / "stock.mp4")
    assert np.array_equal(ours.frames, stock.frames)  # x264's own crf is 23
    stored = {key: json.loads(ours.metadata[key]) for key in ("workflow", "prompt")}
    assert stored == metadata == {key: json.loads(stock.metadata[key]) for key in metadata}
    assert SaveVideo.GET_SCHEMA().is_output_node == node.GET_SCHEMA().is_output_node is True


def test_metadata_can_be_switched_off(video_file, node, with_workflow, monkeypatch):
    import comfy.cli_args

    assert set(video_file.workflow_metadata(node.hidden)) == {"workflow", "prompt"}
    monkeypatch.setattr(comfy.cli_args.args, "disable_metadata", True)
    assert video_file.workflow_metadata(node.hidden) is None


def test_every_video_of_a_batch_gets_a_file(node, vae, output):
    samples = latents(3, count=2)
    made = node.execute({"samples": samples}, vae, 24.0, "batch", 0)
    files = [Path(video.get_stream_source()) for video in made.args[0]]
    assert [file.name for file in files] == ["batch_00001_.mp4", "batch_00002_.mp4"]
    for file, images in zip(files, vae.decode(samples), strict=True):
        difference = read(file).frames / 255.0 - images.numpy()
        assert abs(difference.mean(axis=(1, 2, 3))).max() < 0.02
    assert len(made.ui.as_dict()["images"]) == 2
    again = node.execute({"samples": samples[:1]}, vae, 24.0, "batch", 0)
    assert Path(again.args[0][0].get_stream_source()).name == "batch_00003_.mp4"


def test_lower_crf_is_closer_and_larger(video_file, output):
    images, found = pictures(20), {}
    for crf in (0, 19, 45):
        found[crf] = read(video_file.write_video([images], f"crf{crf}", WIDTH, HEIGHT, 24, crf=crf).path)
    errors = [float(np.abs(found[crf].frames / 255.0 - images.numpy()).mean()) for crf in found]
    assert errors == sorted(errors) and errors[0] < errors[2] / 2
    sizes = [found[crf].size for crf in found]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2]


@pytest.mark.parametrize(("channels", "rate", "written"), [(1, 44100, 44100), (2, 48000, 48000), (6, 44000, 48000)])
def test_sound_is_written_along_and_cut_at_the_end(video_file, output, channels, rate, written):
    seconds = torch.arange(3 * rate) / rate
    waveform = 0.5 * torch.sin(2 * torch.pi * 440 * seconds).expand(1, channels, -1)
    audio = {"waveform": waveform, "sample_rate": rate}
    pieces = pictures(24).split(5)
    path = video_file.write_video(pieces, "sound", WIDTH, HEIGHT, 12, audio=audio).path
    heard, found = sound(path)
    assert read(path).frames.shape[0] == 24
    assert found == written
    assert len(heard) == min(channels, 2)
    assert abs(heard.shape[1] / found - 2.0) < 0.06  # the encoder's blocks and its run-in
    spectrum = np.abs(np.fft.rfft(heard[0][found // 2 : found // 2 + found]))
    assert int(spectrum.argmax()) == 440
    with av.open(str(path)) as container:  # packets of sound and picture take turns, none of them far behind
        kinds = [packet.stream.type for packet in container.demux() if packet.size]
    assert "audio" in kinds[: len(kinds) // 2] and "video" in kinds[len(kinds) // 2 :]


def test_short_sound_ends_before_the_video(video_file, output):
    audio = {"waveform": torch.zeros(1, 2, 24000), "sample_rate": 48000}
    path = video_file.write_video([pictures(24)], "short", WIDTH, HEIGHT, 12, audio=audio).path
    assert read(path).frames.shape[0] == 24
    assert sound(path)[0].shape[1] < 0.6 * 48000


def test_an_interrupt_leaves_a_video_that_plays(node, vae, output, caplog):
    """Interrupted from the side, as the stop button does it, after the first file and in the middle of the second."""
    import comfy.model_management
    import comfy.utils

    samples = latents(9, count=2)
    seen = []

    def stop(value: int, total: int, preview: Any, **more: Any) -> None:
        seen.append((value, total))
        if value == 9 + 3:
            comfy.model_management.interrupt_current_processing()

    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(stop)
    try:
        with caplog.at_level(logging.WARNING), pytest.raises(comfy.model_management.InterruptProcessingException):
            node.execute({"samples": samples}, vae, 24.0, "stopped", 19)
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
    assert [value for value, _ in seen][-1] == 12 and {total for _, total in seen} == {18}
    assert sorted(file.name for file in output.iterdir()) == ["stopped_00001_.mp4", "stopped_00002_partial.mp4"]
    partial = output / "stopped_00002_partial.mp4"
    assert read(partial).frames.shape[0] == 9
    assert f"Stopped after 9 frames (0.4 s). The video so far can be played: {partial}" in caplog.text
    made = node.execute({"samples": samples[:1]}, vae, 24.0, "stopped", 19)
    assert Path(made.args[0][0].get_stream_source()).name == "stopped_00003_.mp4"


def test_an_error_is_passed_on_and_an_empty_file_taken_away(video_file, output):
    with pytest.raises(ValueError, match="the frames are 80 x 48 pixels, those before them 64 x 48"):
        video_file.write_video([pictures(3), pictures(2, width=80)], "wrong", WIDTH, HEIGHT, 24)
    assert read(output / "wrong_00001_partial.mp4").frames.shape[0] == 3
    with pytest.raises(ZeroDivisionError):
        video_file.write_video((pictures(1 // 0) for _ in range(1)), "empty", WIDTH, HEIGHT, 24)
    assert [file.name for file in output.iterdir()] == ["wrong_00001_partial.mp4"]


def test_a_file_that_cannot_be_finished_is_not_called_playable(video_file, output, caplog):
    """As on a full disk: the system refuses what is written from some point on."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    noise = torch.rand(40, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        with caplog.at_level(logging.WARNING), pytest.raises(OSError, match="File too large"):
            video_file.write_video(noise.repeat(5, 1, 1, 1).split(10), "full", WIDTH, HEIGHT, 24, crf=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "The file could not be finished, and players may refuse it" in caplog.text
    assert [file.name for file in output.iterdir()] == ["full_00001_partial.mp4"]


def test_sound_that_is_none_leaves_no_file(video_file, output):
    with pytest.raises(KeyError, match="sample_rate"):
        video_file.write_video([pictures(2)], "silent", WIDTH, HEIGHT, 24, audio={"waveform": torch.zeros(1, 2, 9)})
    assert not [*output.iterdir()]


def test_odd_sizes_and_unfit_latents_are_refused_before_anything_is_decoded(video_file, node, vae, output):
    with pytest.raises(ValueError, match=r"65 x 49 pixels; an MP4 video needs even sizes \(nearest: 64 x 48\)"):
        video_file.write_video([pictures(1, 65, 49)], "odd", 65, 49, 24)
    with pytest.raises(ValueError, match=r"shape \[1, 16, 6, 8\]; a video is"):
        node.execute({"samples": latents(1)[:, :, 0]}, vae, 24.0, "image", 19)
    with pytest.raises(ValueError, match="has 4 channels; this VAE decodes 16"):
        node.execute({"samples": latents(1)[:, :4]}, vae, 24.0, "other", 19)
    assert not [*output.iterdir()]


def test_a_path_outside_of_the_output_folder_is_refused(node, vae, output):
    with pytest.raises(Exception, match="outside the output folder"):
        node.execute({"samples": latents(1)}, vae, 24.0, "../elsewhere", 19)
