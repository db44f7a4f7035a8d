"""The benchmark of drift: what it measures of a picture, curves against the first chunk, and a short run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tools.bench import drift
from tools.bench.harness import drift_measures as measures
from tools.bench.harness import pack
from tools.tinyworld.world import Scene, Sprite, render


def rows(*means: float, way: str = "one") -> dict[str, Any]:
    chunks = [
        {"mean": m, "contrast": 2 * m, "saturation": 0.0, measures.BACKGROUND: 30 - m, measures.SPRITES: 1.0}
        for m in means
    ]
    return {"way": way, "prompt": "p", "seed": 0, "seconds": 1.0, "chunks": chunks}


def test_the_first_latent_frame_stands_for_one():
    assert measures.chunk_frames(3, 5) == [slice(0, 17), slice(17, 37), slice(37, 57)]


def test_pixels_are_measured_by_brightness_contrast_and_colour():
    frames = torch.zeros(2, 4, 4, 3)
    frames[:, :2] = torch.tensor([0.9, 0.6, 0.3])
    everything = torch.ones(2, 4, 4, dtype=torch.bool)
    found = measures.look(frames, everything)
    assert found == {name: pytest.approx(0.3) for name in measures.MEASURES}
    frames[1] += 0.1  # brighter as a whole: no frame has more contrast
    found = measures.look(frames, everything)
    assert found == {"mean": pytest.approx(0.35), "contrast": pytest.approx(0.3), "saturation": pytest.approx(0.3)}
    everything[:, 2:] = False
    assert measures.look(frames, everything)["contrast"] == pytest.approx(0, abs=1e-6)
    assert measures.look(frames, everything)["saturation"] == pytest.approx(0.6)


def test_the_background_is_that_of_the_world_wherever_a_sprite_is():
    scene = Scene("misty field", (Sprite("yellow", "ball", "right"),))
    frames = torch.from_numpy(render(scene, 1).frames)
    found = measures.beside_truth(frames, scene)
    assert found[measures.BACKGROUND] > 60 and found[measures.SPRITES] == pytest.approx(1, abs=0.15)
    assert {name: found[name] for name in measures.MEASURES} == {
        name: pytest.approx(0, abs=1e-3) for name in measures.MEASURES
    }
    darker = measures.beside_truth(frames * 0.9, scene)
    assert {name: darker[name] for name in measures.MEASURES} == {
        name: pytest.approx(-0.1, abs=2e-3) for name in measures.MEASURES
    }
    assert darker[measures.BACKGROUND] < 30


def test_curves_are_means_over_clips_and_the_table_shows_three_chunks_of_them():
    found = [rows(0.1, *[0.2] * 4, 0.3), rows(0.1, *[0.0] * 4, -0.1), rows(*[0.0] * 6, way="two")]
    assert measures.mean_curve(found, "one", "mean") == pytest.approx([0.1, *[0.1] * 5])
    text = measures.comparison(found)
    assert "off the truth, chunk 1 / 5 / 6" in text
    assert "| one | +10.0 / +10.0 / +10.0 | +20.0 / +20.0 / +20.0 |" in text
    assert "| two | +0.0 / +0.0 / +0.0 |" in text


def test_options_are_refused_with_the_nearest(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        drift.parse(["--chunks", "0"])
    assert "nearest: 1" in capsys.readouterr().err


def test_a_quick_run_tells_all_ways(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert drift.main(["--quick", "--out", str(tmp_path / "drift.json")]) == 0
    result = json.loads((tmp_path / "drift.json").read_text(encoding="utf-8"))
    by_way = {row["way"]: row["chunks"] for row in result["rows"]}
    assert tuple(by_way) == tuple(drift.WAYS) and all(len(chunks) == 3 for chunks in by_way.values())
    encoded, latents, sliding, refreshed = ([chunk["mean"] for chunk in chunks] for chunks in by_way.values())
    assert encoded[:2] == latents[:2], "the first window is the same"
    assert len({encoded[2], latents[2], sliding[2], refreshed[2]}) == 4
    picture = np.asarray(Image.open(tmp_path / "drift.png").convert("RGB"))
    assert picture.shape == (760, 1120, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) > 4
    (sheet,) = (tmp_path / "drift_sheets").iterdir()
    assert np.asarray(Image.open(sheet)).shape == (4 * 96, 2 * 96, 3)
    assert measures.comparison(result["rows"]) in capsys.readouterr().out


@torch.inference_mode()
def test_a_chain_of_nodes_makes_the_samplers_sliding_window():
    pack.load()
    from tools.bench.harness.long_world import LongWorld

    world, scene = LongWorld(steps=5), drift.SCENES[0]
    whole = world.sample(scene, 3, 3, window=37, **drift.WAYS[drift.SLIDING]).latents
    chain = world.chain(scene, 3, [1, 2], window=37)
    assert torch.equal(chain, whole)
