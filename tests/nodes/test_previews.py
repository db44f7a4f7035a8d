"""How often ComfyUI's previews are made, and the colours of the view's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.latent_formats
import comfy.utils
import latent_preview
import numpy as np
import pytest
import torch


@pytest.fixture
def told(mc: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """(callback under test, calls that it passed on, progress told beside them, clock to turn, server)."""
    previews = mc.module("nodes.host.previews")
    made = SimpleNamespace(passed=[], progress=[], now=100.0, server=SimpleNamespace(sockets={"page": object()}))
    monkeypatch.setattr(previews, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(previews, "prompt_server", lambda: made.server)
    monkeypatch.setattr(previews, "pages_open", lambda: bool(made.server.sockets))
    hook = lambda value, total, preview, node_id=None: made.progress.append((value, total, preview))  # noqa: E731
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    made.callback = previews.PacedCallback(lambda call, x0, x, total: made.passed.append((call, float(x0))))
    return made


def run(told: Any, seconds: float, calls: int = 20) -> list[int]:
    """Calls of a run in which each takes so long; the prediction of a call is its number."""
    for call in range(calls):
        told.callback(call, torch.tensor(float(call)), torch.empty(0), calls)
        told.now += seconds
    assert all(call == value for call, value in told.passed)
    return [call for call, _ in told.passed]


def test_previews_are_two_a_second_and_progress_is_told_of_every_call(told: Any) -> None:
    assert run(told, 0.125) == [0, 4, 8, 12, 16, 19]
    assert told.progress == [(call + 1, 20, None) for call in range(20) if call not in (0, 4, 8, 12, 16, 19)]


def test_every_long_call_has_a_preview(told: Any) -> None:
    assert run(told, 0.6) == list(range(20)) and not told.progress


def test_nobody_looks_nothing_is_made(told: Any) -> None:
    told.server.sockets.clear()
    made = []
    for call in range(20):
        told.callback.tell(call, lambda: made.append(1) or torch.tensor(0.0), torch.empty(0), 20)
        told.now += 1.0
    assert [call for call, _ in told.passed] == [19], "stock nodes take their output from the last"
    assert len(made) == 1


def test_without_a_server_every_call_is_passed_on(told: Any) -> None:
    told.server = None
    assert run(told, 0.01) == list(range(20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_colours_are_those_of_comfyuis_linear_previewer(
    mc: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    import comfy.cli_args

    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.Auto)
    wan = comfy.latent_formats.Wan21()
    latents = torch.randn(2, 16, 3, 6, 8, generator=torch.manual_seed(0)).to(dtype)
    made = mc.module("nodes.host.thumbnails").latent_colours(wan)(latents)
    assert made.shape == (3, 6, 8, 3) and made.dtype == np.uint8 and made.std() > 10
    previewer = latent_preview.Latent2RGBPreviewer(wan.latent_rgb_factors, wan.latent_rgb_factors_bias)
    for frame in range(3):
        expected = np.asarray(previewer.decode_latent_to_preview(latents[:, :, frame : frame + 1].float()))
        assert np.abs(made[frame].astype(int) - expected.astype(int)).max() <= 1
