"""Comparing videos and sweeping runs, in this process."""

from __future__ import annotations

import importlib
import json
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from motioncache_core.quality import mean_psnr, ssim


@pytest.fixture
def nodes(pack: ModuleType) -> ModuleType:
    return importlib.import_module("motioncache.nodes.evaluate")


def video(seed: int, frames: int = 5, height: int = 24, width: int = 32) -> Tensor:
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(seed)) * 0.8


def one_bad_frame() -> tuple[Tensor, Tensor]:
    a = video(0)
    b = (a + 0.01 * video(1)).clamp(0, 1)
    b[3, :, 16:] = 1 - b[3, :, 16:]
    return a, b


def test_two_videos_give_plot_worst_frame_numbers_and_words(nodes):
    a, b = one_bad_frame()
    node = nodes.MotionCacheCompareVideos.execute(a, b)
    plot, worst, psnr, alike, summary = node.result
    assert plot.ndim == 4 and plot.shape[0] == 1 and plot.dtype == torch.float32 and 0 <= plot.min() < plot.max() <= 1
    assert psnr == pytest.approx(mean_psnr(a, b)) and alike == pytest.approx(float(ssim(a, b).mean()))
    assert f"mean PSNR {psnr:.2f} dB, mean SSIM {alike:.4f} over 5 frames" in summary
    assert "worst frame 3:" in summary and "mask" not in summary
    assert node.ui == {"text": [summary]}
    factor = worst.shape[2] // (3 * 32)
    reference = worst[0, -24 * factor :: factor, : 32 * factor : factor]
    torch.testing.assert_close(reference, a[3], atol=0.5 / 255 + 1e-4, rtol=0)
    left, right = worst[0, -24 * factor :, -32 * factor :].chunk(2, dim=1)
    assert right.mean() > 5 * left.mean(), "the difference is on the right"


def test_equal_videos_are_called_equal(nodes):
    a = video(2)
    *_, psnr, alike, summary = nodes.MotionCacheCompareVideos.execute(a, a.clone()).result
    assert (psnr, alike) == (100.0, 1.0)
    assert "the videos are equal" in summary and "worst" not in summary


@pytest.mark.parametrize("kind", ["one", "one a frame", "flat"])
def test_a_mask_leaves_the_rest_out(nodes, kind: str):
    a, b = one_bad_frame()
    mask = torch.zeros(24, 32) if kind == "flat" else torch.zeros(1 if kind == "one" else 5, 24, 32)
    mask[..., :8] = 1
    _, worst, psnr, _, summary = nodes.MotionCacheCompareVideos.execute(a, b, mask).result
    assert psnr == pytest.approx(mean_psnr(a[:, :, :8], b[:, :, :8]), abs=1e-3)
    assert psnr > mean_psnr(a, b) + 10
    assert "inside the mask" in summary
    factor = worst.shape[2] // (3 * 32)
    assert worst[0, -24 * factor :, -24 * factor :].max() < 0.02, "the difference is drawn inside the mask only"


def test_frames_with_a_black_mask_are_left_out_and_counted(nodes):
    a, b = one_bad_frame()
    mask = torch.ones(5, 24, 32)
    mask[3] = 0
    *_, psnr, alike, summary = nodes.MotionCacheCompareVideos.execute(a, b, mask).result
    kept = [0, 1, 2, 4]
    assert psnr == pytest.approx(mean_psnr(a[kept], b[kept]))
    assert alike == pytest.approx(float(ssim(a[kept], b[kept]).mean()))
    assert "mask is black: 1" in summary and "worst frame 3" not in summary


def test_of_different_lengths_the_common_part_counts_and_it_is_said(nodes):
    a, b = one_bad_frame()
    for one, other in ((a, b[:3]), (a[:3], b)):
        *_, psnr, _, summary = nodes.MotionCacheCompareVideos.execute(one, other, torch.ones(5, 24, 32)).result
        assert psnr == pytest.approx(mean_psnr(a[:3], b[:3]))
        assert f"reference has {len(one)} frames and compared has {len(other)}; the first 3 were compared" in summary


def test_transparency_is_not_compared(nodes):
    a, b = one_bad_frame()
    with_alpha = torch.cat([b, torch.zeros(5, 24, 32, 1)], dim=-1)
    assert nodes.MotionCacheCompareVideos.execute(a, with_alpha).result[2] == pytest.approx(mean_psnr(a, b))


def test_what_does_not_fit_is_refused_with_both_sizes(nodes):
    a = video(3)
    compare = nodes.MotionCacheCompareVideos.execute
    with pytest.raises(ValueError, match="reference is 32 x 24 and compared is 30 x 24; scale"):
        compare(a, a[:, :, :30])
    with pytest.raises(ValueError, match="mask is 64 x 64 and the videos are 32 x 24"):
        compare(a, a, torch.ones(1, 64, 64))
    with pytest.raises(ValueError, match=r"mask has 3 frames; 5 frames are compared \(nearest: 5, or 1\)"):
        compare(a, a, torch.ones(3, 24, 32))
    with pytest.raises(ValueError, match="mask is black everywhere"):
        compare(a, a, torch.zeros(1, 24, 32))
    with pytest.raises(ValueError, match="compared has 0; 1 is needed"):
        compare(a, a[:0])


def test_progress_is_told_and_an_interrupt_stops_it(nodes, monkeypatch: pytest.MonkeyPatch):
    import comfy.utils

    told: list[int] = []

    def hook(value: int, total: int, preview: object, node_id: str | None = None) -> None:
        told.append(value)
        assert total == 5
        if value == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(importlib.import_module("motioncache.motioncache_core.quality"), "PIXELS_AT_ONCE", 2 * 24 * 32)
    with pytest.raises(KeyboardInterrupt):
        nodes.MotionCacheCompareVideos.execute(*one_bad_frame())
    assert told == [2, 4]


class Largest(TorchDispatchMode):
    """Watches the sizes of all tensors that are made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204 - PyTorch's own
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.elements = max(self.elements, made.untyped_storage().nbytes() // made.element_size())
        return made


def test_a_video_is_worked_on_a_few_frames_at_a_time(nodes):
    """Both videos are one frame shown 12 times, so that only what the node makes is large."""
    a, b = (torch.rand(1, 720, 1280, 3).expand(12, -1, -1, -1) for _ in range(2))
    with Largest() as seen:
        nodes.MotionCacheCompareVideos.execute(a, b, torch.ones(1, 720, 1280))
    assert 0 < seen.elements < a.numel() // 3, "the largest are 2 frames, and the picture of the worst frame"


def report(**summary: float) -> str:
    totals = {"cache": "token", "computed_fraction": 0.5, "flops": 1e12, "seconds": 2.0, **summary}
    head = {"format": "motioncache_report", "version": 1, "family": "skyreels_v2", "sampling": "chunk-wise"}
    return json.dumps({**head, "latent_frames": 7, "summary": totals})


def sweep(nodes: ModuleType, *runs: tuple, x_axis: str = "computed fraction") -> list:
    """Chained: (report, label, quality) of each run."""
    steps = []
    for text, label, quality in runs:
        previous = (steps[-1].result[0],) if steps else ()
        steps.append(nodes.MotionCacheSweep.execute(text, label, x_axis, "PSNR", False, quality, *previous))
    return steps


def test_a_chain_gathers_runs_and_leaves_the_ones_before_as_they_were(nodes):
    first, second, third = sweep(
        nodes,
        (report(cache="none", computed_fraction=1.0), "", None),
        (report(), "", 30.0),
        (report(computed_fraction=0.7), "soft", 28.0),
    )
    assert [len(step.result[0]) for step in (first, second, third)] == [1, 2, 3]
    table = third.result[2]
    assert third.ui == {"text": [table]}
    names = [line.split(" | ")[0].strip("| ") for line in table.split("\n")[2:5]]
    assert names == ["reference", "run 2", "soft"]
    assert ["yes" in line for line in table.split("\n")[2:5]] == [False, True, False]
    for step in (first, second, third):
        plot = step.result[1]
        assert plot.shape == (1, 600, 960, 3) and plot.min() < 0.1 and plot.max() == 1
    assert not torch.equal(second.result[1], third.result[1])


def test_two_branches_of_a_chain_do_not_see_each_other(nodes):
    (root,) = sweep(nodes, (report(), "root", 30.0))
    branches = [
        nodes.MotionCacheSweep.execute(report(), name, "seconds", "PSNR", True, 31.0, root.result[0]) for name in "ab"
    ]
    assert [[run.label for run in step.result[0]] for step in branches] == [["root", "a"], ["root", "b"]]


def test_what_no_sampler_made_is_refused(nodes):
    execute = nodes.MotionCacheSweep.execute
    with pytest.raises(ValueError, match="report is not a sampler's report.*begins 'nothing was reused'"):
        execute("nothing was reused", "", "seconds", "PSNR", False, 30.0)
    with pytest.raises(ValueError, match="x_axis is 'speed-up'; it must be one of computed fraction, TFLOPs, seconds"):
        execute(report(), "", "speed-up", "PSNR", False, 30.0)
    with pytest.raises(ValueError, match="quality is inf"):
        execute(report(), "", "seconds", "PSNR", False, float("inf"))


def test_the_sweep_reads_what_the_sampler_wrote(nodes, mc):
    """Two real runs of a tiny checkpoint, decoded to nothing but compared as latents would be."""
    model = mc.load()
    plain, cached = mc.sample(model), mc.sample(mc.cached(model))
    runs = [(json.dumps(plain.report), "plain", None), (json.dumps(cached.report), "cached", 25.0)]
    table = sweep(nodes, *runs)[-1].result[2]
    fraction = cached.summary["computed_fraction"]
    assert f"| cached | token-level | {fraction:.3f} |" in table
    assert "| plain | no cache, chunk-wise | 1.000 |" in table and "should not be compared" not in table
