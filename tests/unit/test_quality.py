"""PSNR and SSIM: known values, another implementation's values, and what must hold for any pictures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from motioncache_core import quality
from motioncache_core.quality import frame_groups, mean_psnr, psnr, ssim


def video(seed: int, frames: int = 3, height: int = 20, width: int = 27) -> Tensor:
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(seed))


def pattern(height: int, width: int, phase: float) -> Tensor:
    """A picture that any language can make: ``[1, h, w, 3]`` of sines."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = [0.5 + 0.4 * torch.sin(0.3 * x.double() * (c + 1) + 0.17 * y + phase) for c in range(3)]
    return torch.stack(planes, dim=-1).unsqueeze(0)


def around_pixels(a: Tensor, b: Tensor) -> Tensor:
    """``[h, w]`` structural similarity around every pixel of one picture: each in its own frame's mask."""
    _, height, width, _ = a.shape
    count = height * width
    masks = torch.eye(count).view(count, height, width)
    return ssim(a.expand(count, -1, -1, -1), b.expand(count, -1, -1, -1), masks).view(height, width)


def test_psnr_of_a_constant_shift():
    a = video(0) * 0.5
    assert psnr(a, a + 0.1).tolist() == pytest.approx([20.0] * 3, abs=1e-4)
    shifts = torch.tensor([0.1, 0.01, 0.0]).view(3, 1, 1, 1)
    assert psnr(a, a + shifts).tolist() == pytest.approx([20.0, 40.0, 100.0], abs=1e-3)


def test_mean_psnr_averages_the_error_and_not_the_decibels():
    a = torch.zeros(2, 4, 4, 3)
    b = a + torch.tensor([0.1, 0.3]).view(2, 1, 1, 1)
    assert mean_psnr(a, b) == pytest.approx(-10 * math.log10((0.01 + 0.09) / 2), abs=1e-5)
    assert mean_psnr(a, b) < psnr(a, b).mean()
    assert mean_psnr(a, a) == 100.0
    assert mean_psnr(a, a + 1e-7) == 100.0, "capped, not only where equal"


def test_equal_videos_are_wholly_alike():
    a = video(1)
    assert torch.equal(ssim(a, a), torch.ones(3))
    assert torch.equal(psnr(a, a), torch.full((3,), 100.0))


def test_both_are_symmetric_and_worse_for_more_noise():
    a, noise = video(2) * 0.5 + 0.25, video(3) - 0.5
    near, far = a + 0.05 * noise, a + 0.2 * noise
    torch.testing.assert_close(ssim(a, far), ssim(far, a))
    torch.testing.assert_close(psnr(a, far), psnr(far, a))
    assert (ssim(a, near) > ssim(a, far)).all() and (ssim(a, near) < 1).all()
    assert (psnr(a, near) > psnr(a, far)).all()


@pytest.mark.parametrize("size", [(20, 27), (5, 4), (1, 1)])
def test_ssim_of_flat_pictures_is_the_luminance_term_up_to_the_border(size):
    a, b = torch.full((1, *size, 3), 0.4), torch.full((1, *size, 3), 0.6)
    expected = (2 * 0.4 * 0.6 + 0.01**2) / (0.4**2 + 0.6**2 + 0.01**2)
    torch.testing.assert_close(around_pixels(a, b), torch.full(size, expected), rtol=0, atol=1e-4)


def test_ssim_of_a_picture_and_its_negative_is_negative():
    a = pattern(24, 24, 0.0)
    assert ssim(a, 1 - a).item() < -0.5


def test_both_equal_scikit_image():
    """Values of scikit-image 0.26 (Gaussian weights, population covariance), which leaves out a border of 5 pixels."""
    a, b = pattern(24, 30, 0.0), pattern(24, 30, 0.4) * 0.9
    alike = around_pixels(a, b)
    assert alike[5:-5, 5:-5].mean().item() == pytest.approx(0.8730127302, abs=1e-5)
    for (row, column), value in {(5, 5): 0.9014783031, (12, 17): 0.8833101095, (18, 24): 0.8447041269}.items():
        assert alike[row, column].item() == pytest.approx(value, abs=1e-5)
    assert psnr(a, b).item() == pytest.approx(18.196745956, abs=1e-5)


def test_ssim_equals_the_definition_at_a_pixel():
    """Equations of the paper written out for one pixel and its window, in float64."""
    a, b = video(4, 1, 15, 15).double(), video(5, 1, 15, 15).double()
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = (torch.outer(line, line) / line.sum() ** 2).unsqueeze(-1)
    x, y = a[0, 2:13, 2:13], b[0, 2:13, 2:13]
    mx, my = ((window * v).sum(dim=(0, 1)) for v in (x, y))
    vx, vy = (window * (x - mx) ** 2).sum(dim=(0, 1)), (window * (y - my) ** 2).sum(dim=(0, 1))
    cov = (window * (x - mx) * (y - my)).sum(dim=(0, 1))
    values = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert around_pixels(a, b)[7, 7].item() == pytest.approx(values.mean().item(), abs=1e-5)


def test_a_mask_restricts_to_a_region():
    a = video(6) * 0.5
    b = a.clone()
    b[:, :, 20:] += 0.1
    mask = torch.zeros(3, 20, 27)
    mask[:, :, 20:] = 1
    assert psnr(a, b, mask).tolist() == pytest.approx([20.0] * 3, abs=1e-4)
    assert mean_psnr(a, b, mask) == pytest.approx(20.0, abs=1e-4)
    assert psnr(a, b, 1 - mask).tolist() == [100.0] * 3
    right = [around_pixels(a[frame : frame + 1], b[frame : frame + 1])[:, 20:].mean() for frame in range(3)]
    torch.testing.assert_close(ssim(a, b, mask), torch.stack(right))
    far_left = torch.zeros(1, 20, 27)
    far_left[:, :, :15] = 1  # no window there reaches the changed part
    torch.testing.assert_close(ssim(a, b, far_left), torch.ones(3))


def test_a_mask_of_everything_is_no_mask_and_only_its_proportions_count():
    a, b = video(7), video(8)
    for mask in (torch.ones(3, 20, 27), torch.full((1, 20, 27), 0.3)):
        torch.testing.assert_close(psnr(a, b, mask), psnr(a, b))
        torch.testing.assert_close(ssim(a, b, mask), ssim(a, b))
        assert mean_psnr(a, b, mask) == pytest.approx(mean_psnr(a, b))


def test_an_empty_frame_of_a_mask_does_not_count():
    a, b = video(9), video(10)
    mask = torch.ones(3, 20, 27)
    mask[1] = 0
    assert psnr(a, b, mask).isnan().tolist() == ssim(a, b, mask).isnan().tolist() == [False, True, False]
    assert mean_psnr(a, b, mask) == pytest.approx(mean_psnr(a[[0, 2]], b[[0, 2]]))
    assert math.isnan(mean_psnr(a, b, torch.zeros(1, 20, 27)))


def test_groups_cover_the_video_and_do_not_change_the_result(monkeypatch):
    a, b, mask = video(11, 5), video(12, 5), video(13, 5)[..., 0]
    whole = psnr(a, b, mask), ssim(a, b, mask), mean_psnr(a, b, mask)
    monkeypatch.setattr(quality, "PIXELS_AT_ONCE", 2 * 20 * 27 + 5)
    assert list(frame_groups(5, 20, 27)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(frame_groups(2, 4000, 4000)) == [slice(0, 1), slice(1, 2)]
    for one, other in zip(whole[:2], (psnr(a, b, mask), ssim(a, b, mask)), strict=True):
        assert torch.equal(one, other)
    assert mean_psnr(a, b, mask) == whole[2]


def test_half_precision_is_computed_in_float32():
    a, b = video(14).half(), video(15).half()
    assert ssim(a, b).dtype == psnr(a, b).dtype == torch.float32
    torch.testing.assert_close(ssim(a, b), ssim(a.float(), b.float()))


@pytest.mark.parametrize("function", [psnr, mean_psnr, ssim])
def test_what_cannot_be_compared_is_refused_with_both_sizes(function):
    a = video(16)
    with pytest.raises(ValueError, match=r"got \(3, 20, 27, 3\), \(2, 20, 27, 3\)"):
        function(a, a[:2])
    with pytest.raises(ValueError, match=r"a mask for \(3, 20, 27\).*got \(2, 20, 27\)"):
        function(a, a, torch.ones(2, 20, 27))
    with pytest.raises(ValueError, match="0 or more, got -1"):
        function(a, a, -torch.ones(3, 20, 27))
