"""Patches, and rotary positions: complex and real arithmetic agree, and a rotation is a rotation."""

from __future__ import annotations

import math

import pytest
import torch

from motioncache_core.models.skyreels_v2 import tokens

HEADS, PAIRS, TOKENS = 3, 4, 5


def test_patches_and_latents_are_each_others_inverse():
    latents = torch.randn(2, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    patches = tokens.patchify(latents, (1, 2, 2))
    assert patches.shape == (2, 3 * 2 * 3, 4 * 16)
    assert torch.equal(patches[1, 7, :16], latents[1, :, 1, 0, 2])  # frame 1, first row, second column
    assert torch.equal(tokens.unpatchify(patches, (3, 2, 3), (1, 2, 2)), latents)


def table(angles: torch.Tensor) -> torch.Tensor:
    """``[N, 1, d / 2, 2]`` of angles ``[N, d / 2]``."""
    return torch.stack([angles.cos(), angles.sin()], dim=-1).unsqueeze(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_devices_without_complex_numbers_rotate_alike(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, TOKENS, HEADS * PAIRS * 2, generator=generator).to(dtype)
    angles = table(torch.randn(TOKENS, PAIRS, generator=generator) * 3)
    turned = tokens.rotate(x, angles, HEADS)
    monkeypatch.setattr(tokens, "COMPLEX_DEVICES", ())
    torch.testing.assert_close(tokens.rotate(x, angles, HEADS), turned, atol=1e-6, rtol=0)
    assert turned.dtype == torch.float32
    assert turned.shape == x.shape


def test_neighbouring_channels_turn_by_their_token_and_pair():
    angles = torch.zeros(2, 2)
    angles[1, 0] = math.pi / 2
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 2, 4)
    turned = tokens.rotate(x, table(angles), heads=1)
    torch.testing.assert_close(turned[0, 0], x[0, 0])
    torch.testing.assert_close(turned[0, 1], torch.tensor([-2.0, 1.0, 3.0, 4.0]), atol=1e-6, rtol=0)
