"""The procedural world, its tracker, and the models trained on it as they ship."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tools.tinyworld import dataset, forcing, muon, prompts, sampling, training, transformer, vae
from tools.tinyworld import world as tiny

REPO = Path(__file__).resolve().parents[2]
SHIPPED = REPO / "tiny_world"
VAE_FILE = SHIPPED / "vae" / "tiny_world_wan_vae.safetensors"
TRANSFORMER_FILE = SHIPPED / "diffusion_models" / "tiny_world_skyreels_v2_df.safetensors"
PROMPTS = sorted((SHIPPED / "prompts").glob("*.safetensors"))
SCENE = tiny.Scene("striped wall", (tiny.Sprite("red", "ball", "right"),))


@pytest.mark.parametrize("scene", tiny.scenes()[::7], ids=lambda s: s.name)
def test_tracker_finds_the_truth(scene: tiny.Scene) -> None:
    clip = tiny.render(scene, seed=3)
    found = tiny.measure(clip.frames, scene)
    assert np.abs(found.centres - clip.centres[0]).max() < 1.0
    assert found.direction_right and found.colour_right
    assert found.angle_error < 1.0
    assert abs(found.speed - 1) < 0.05
    assert 0.9 < found.area < 1.1
    assert found.background_psnr > 60


def test_same_seed_same_clip_and_other_seed_another_place() -> None:
    first, again, other = (tiny.render(SCENE, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.frames, again.frames)
    assert np.abs(first.centres - other.centres).max() > 1.0
    np.testing.assert_array_equal(first.background, other.background)


def test_sprites_stay_in_the_picture_and_travel() -> None:
    for motion, (dx, dy) in tiny.MOTIONS.items():
        scene = tiny.Scene("misty field", (tiny.Sprite("blue", "ball", motion),))
        centres = np.stack([tiny.render(scene, seed).centres[0] for seed in range(8)])
        assert centres.min() > 0.1 * 96 and centres.max() < 0.9 * 96
        way = centres[:, -1] - centres[:, 0]
        np.testing.assert_allclose(way, np.broadcast_to(np.array([dx, dy]) * 0.56 * 96, way.shape), atol=1e-3)


def test_a_slow_sprite_goes_half_the_way_and_a_still_one_has_no_speed() -> None:
    slow = tiny.Scene("misty field", (tiny.Sprite("blue", "ball", "left", "slow"),))
    centres = tiny.render(slow, 1).centres[0]
    np.testing.assert_allclose(centres[-1] - centres[0], (-0.28 * 96, 0), atol=1e-3)
    assert slow.text == "a blue ball moves slowly left over a misty field"
    assert (
        tiny.measure(
            tiny.render(slow, 1).frames, tiny.Scene("misty field", (tiny.Sprite("blue", "ball", "left"),))
        ).speed
        < 0.6
    )
    with pytest.raises(ValueError, match="speed 'slow' of a sprite that stays still"):
        tiny.Sprite("red", "ball", "none", "slow")


def test_two_sprites_have_lanes_of_their_own() -> None:
    for scene in tiny.pairs()[::37]:
        clip = tiny.render(scene, 4)
        assert not (clip.coverage[0] * clip.coverage[1]).any()
        assert clip.centres.min() > 0.1 * 96 and clip.centres.max() < 0.9 * 96
        found = tiny.measure(clip.frames, scene)
        assert found.direction_right and found.colour_right and found.background_psnr > 60
        assert np.abs(found.centres - clip.centres).max() < 1.0
        first, second = scene.sprites
        if first.motion != second.motion:
            swapped = (
                replace(first, motion=second.motion, speed=second.speed),
                replace(second, motion=first.motion, speed=first.speed),
            )
            assert not tiny.measure(clip.frames, tiny.Scene(scene.background, swapped)).direction_right


def test_background_outside_the_coverage_is_untouched() -> None:
    clip = tiny.render(tiny.Scene("checkered floor", (tiny.Sprite("red"), tiny.Sprite("blue", "box", "up"))), 2)
    free = ~clip.coverage.any(0)
    np.testing.assert_array_equal(clip.frames[free], np.broadcast_to(clip.background, clip.frames.shape)[free])
    assert clip.centres.shape == (2, 97, 2)
    assert (clip.coverage.sum(0) <= 1 + 1e-6).all()  # of a hidden place only the sprite in front counts


@pytest.mark.parametrize(
    ("change", "ok"),
    [("other colour", False), ("backwards", False), ("no sprite", False), ("nothing", True)],
)
def test_measure_tells_wrong_from_right(change: str, ok: bool) -> None:
    clip = tiny.render(SCENE, 1)
    frames = clip.frames
    if change == "other colour":
        frames = tiny.render(tiny.Scene("striped wall", (tiny.Sprite("blue"),)), 1).frames
    elif change == "backwards":
        frames = frames[::-1]
    elif change == "no sprite":
        frames = np.broadcast_to(clip.background, frames.shape)
    found = tiny.measure(frames, SCENE)
    assert (found.direction_right and found.colour_right) == ok


def test_measure_sees_a_wrong_background_and_a_drifting_still_sprite() -> None:
    other = tiny.render(tiny.Scene("checkered floor", SCENE.sprites), 1).frames
    assert tiny.measure(other, SCENE).background_psnr < 20
    still = tiny.Scene("striped wall", (tiny.Sprite("red", "ball", "none"),))
    assert tiny.measure(tiny.render(SCENE, 1).frames, still).angle_error == 180.0
    assert tiny.measure(tiny.render(still, 1).frames, still).angle_error == 0.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tiny.Sprite("green"), "colour 'green'.*red, blue, yellow"),
        (lambda: tiny.Scene("moon", ()), "background 'moon'.*striped wall"),
        (lambda: tiny.World(size=100), "size 100.*nearest is 96"),
        (lambda: tiny.World(frames=56), "frames 56.*nearest is 57"),
        (lambda: tiny.colour_share(np.zeros((1, 8, 8, 3)), "pink"), "colour 'pink'"),
    ],
)
def test_refusals_name_what_is_legal(make, words: str) -> None:  # noqa: ANN001 - a lambda
    with pytest.raises(ValueError, match=words):
        make()


def test_prompts_differ_only_in_the_words_that_differ() -> None:
    left = tiny.Scene("striped wall", (tiny.Sprite("red", "ball", "left"),))
    a, b, empty = prompts.embed(SCENE), prompts.embed(left), prompts.embed(None)
    assert a.shape == (1, 8, 4096)
    assert torch.equal(a, prompts.embed(SCENE))
    assert (a != b).any(-1).sum() == 1
    assert (a != empty).any(-1).sum() == 7
    both = tiny.Scene("striped wall", (*SCENE.sprites, tiny.Sprite("blue", "box", "up")))
    assert (prompts.embed(both) != a).any(-1).sum() == 3
    slow = prompts.embed(tiny.Scene("striped wall", (tiny.Sprite("red", "ball", "right", "slow"),)))
    assert (slow != a).any(-1).sum() == 1
    assert 0.6 < torch.cosine_similarity(slow[0, 4], a[0, 4], 0) < 0.8  # the same motion, in part


def test_a_motion_of_every_background_and_colour_is_held_out() -> None:
    held = [s for s in dataset.known_scenes() if dataset.held_out(s)]
    assert len({(s.background, s.sprites[0].colour) for s in held}) == 9
    assert len({(s.background, s.sprites[0].colour, s.sprites[0].motion) for s in held}) == 9
    assert {s.sprites[0].motion for s in held} == set(tiny.MOTIONS)
    assert len(held) == 16  # seven of the motions at two speeds


def test_no_training_clip_shows_what_is_held_out() -> None:
    trained = dataset.training_scenes(2)
    held = {
        (s.background, p.colour, p.motion) for s in dataset.known_scenes() if dataset.held_out(s) for p in s.sprites
    }
    shown = {(s.background, p.colour, p.motion) for s in trained for p in s.sprites}
    assert not held & shown
    assert sum(len(s.sprites) == 2 for s in trained) == len(trained) / 2
    assert len(shown) == 36


def test_noise_levels_reach_what_sampling_needs() -> None:
    sigma = forcing.noise_levels(4000, 3, torch.Generator().manual_seed(1))
    assert sigma.min() == 0 and sigma.max() <= 0.999
    assert (sigma[:, 2] > 0).float().mean() > 0.5
    history = sigma[:, 0]
    assert (history == 0.02).any() and ((history > 0.05) & (history < 0.25)).any()
    assert ((sigma[:, 0] == 0) & (sigma[:, 1] == 0) & (sigma[:, 2] > 0.5)).any()


def test_training_goes_from_short_clips_to_whole_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps from the shipped weights, on clips of noise."""
    generator, scenes = torch.Generator().manual_seed(0), dataset.training_scenes(1)
    kinds = [next(i for i, s in enumerate(scenes) if dataset._kind(s) == kind) for kind in range(3)]
    latents = torch.randn(3, 16, 25, 4, 4, generator=generator)
    places = torch.rand(3, 25, 4, 4, generator=generator)
    save_file(
        {"latents": latents, "places": places, "scene": torch.tensor(kinds)}, tmp_path / "latents_0_of_1.safetensors"
    )
    shown, loss_on = [], forcing.loss_on
    monkeypatch.setattr(forcing, "loss_on", lambda *given: shown.append(given[3]) or loss_on(*given))
    recipe, out = training.Recipe(steps=2, batch=1, short=0.5, warm_up=1), tmp_path / "out.safetensors"
    forcing.train(0, recipe, tmp_path, 0, out, VAE_FILE, 1, TRANSFORMER_FILE)
    assert shown == [forcing.SHORT_CHUNKS, forcing.CHUNKS]
    shipped, made = load_file(TRANSFORMER_FILE), load_file(out)
    assert made.keys() == shipped.keys()
    changed = [key for key in made if not torch.equal(made[key], shipped[key])]
    assert len(changed) > len(made) / 2 and all(torch.isfinite(made[key]).all() for key in made)


def test_muon_makes_every_direction_as_large_as_any() -> None:
    matrices = torch.randn(3, 20, 12, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(muon.orthogonal(matrices, rounds=5))
    assert values.max() < 1.4 and values.min() > 0.4


@pytest.fixture(scope="module")
def network() -> transformer.TinySkyReels:
    from tools.tinyworld.evaluate import load_transformer

    return load_transformer(TRANSFORMER_FILE)


@pytest.fixture(scope="module")
def autoencoder() -> torch.nn.Module:
    return dataset.load_vae(VAE_FILE)


def test_the_shipped_files_are_small() -> None:
    sizes = {path: path.stat().st_size for path in SHIPPED.rglob("*.safetensors")}
    assert len(sizes) >= 5
    assert max(sizes.values()) <= 10_000_000
    assert sum(sizes.values()) <= 15_000_000
    assert VAE_FILE.stat().st_size <= 4_000_000


def test_the_transformer_has_the_official_keys(network: transformer.TinySkyReels) -> None:
    state = load_file(TRANSFORMER_FILE)
    assert set(state) == set(network.official_state())
    assert {key for key in state if key.startswith("fps_")} == {
        "fps_embedding.weight", *(f"fps_projection.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias"))
    }  # fmt: skip
    assert state["patch_embedding.weight"].shape == (256, 16, 1, 2, 2)
    assert state["text_embedding.0.weight"].shape == (256, 4096)
    assert all(value.dtype == torch.float16 and torch.isfinite(value).all() for value in state.values())


def test_the_forward_is_comfyuis_and_block_causal(network: transformer.TinySkyReels) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 16, 6, 4, 4, generator=generator)
    t = torch.tensor([[100.0, 100, 100, 800, 800, 800]])
    context, fps = prompts.embed(SCENE), torch.ones(1, dtype=torch.long)
    with torch.no_grad():
        causal = network(x, t, context, fps, (3, 3))
        later = x.clone()
        later[:, :, 3:] += 1
        assert torch.equal(network(later, t, context, fps, (3, 3))[:, :, :3], causal[:, :, :3])
        full = network(x, t, context, fps, (6,))
        assert not torch.allclose(full[:, :, :3], causal[:, :, :3], atol=1e-4)
        plain = network.net.time_projection[1].bias.clone()
        network.net.time_projection[1].bias += network.fps_projection(network.fps_embedding(fps))[0]
        native = network.net(x, t, context)
        network.net.time_projection[1].bias.copy_(plain)
    torch.testing.assert_close(full, native, atol=1e-5, rtol=1e-4)


def test_the_autoencoder_keeps_the_world_and_has_wans_statistics(autoencoder: torch.nn.Module) -> None:
    from tools.tinyworld.host import wan_statistics

    latents = []
    for i, scene in enumerate(dataset.known_scenes()[::9]):
        video = dataset.to_video(tiny.render(scene, 50 + i, tiny.World(frames=17)).frames)
        with torch.no_grad():
            latents.append(vae.encode(autoencoder, video))
            back = vae.decode(autoencoder, latents[-1])
        error = (dataset.to_frames(back) - dataset.to_frames(video)) ** 2
        assert -10 * np.log10(error.mean()) > 26
    mean, std = wan_statistics()
    flat = torch.cat(latents, 2).transpose(0, 1).flatten(1)
    assert ((flat.mean(1) - mean).abs() < std).all()
    assert (0.5 < flat.std(1) / std).all() and (flat.std(1) / std < 1.6).all()


def test_whole_encode_is_comfyuis_framewise_encode(autoencoder: torch.nn.Module) -> None:
    video = dataset.to_video(tiny.render(SCENE, 4, tiny.World(frames=9)).frames)
    with torch.no_grad():
        latents = vae.encode(autoencoder, video)
        torch.testing.assert_close(latents, autoencoder.encode(video), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(vae.decode(autoencoder, latents), autoencoder.decode(latents), atol=1e-3, rtol=1e-3)


def test_comfyuis_stock_loader_takes_the_autoencoder() -> None:
    import comfy.sd

    stock = comfy.sd.VAE(sd=load_file(VAE_FILE))
    clip = tiny.render(SCENE, 9, tiny.World(frames=17))
    with torch.inference_mode():
        latents = stock.encode(torch.from_numpy(clip.frames))
        frames = stock.decode(latents)[0].numpy()
    assert latents.shape == (1, 16, 5, 12, 12)
    assert -10 * np.log10(((frames - clip.frames) ** 2).mean()) > 26


@pytest.mark.parametrize("path", PROMPTS, ids=lambda p: p.stem)
def test_prompt_files_are_what_the_loader_reads(path: Path) -> None:
    with safe_open(path, "pt") as file:
        meta = file.metadata()
        assert (meta["format"], meta["version"]) == ("motioncache_prompt", "1")
        assert list(file.keys()) == ["entries.0.cond"]
        cond = file.get_tensor("entries.0.cond")
    by_text = {scene.text: scene for scene in prompts.SHIPPED} | {"": None}
    assert torch.equal(cond.float(), prompts.embed(by_text[meta["text"]]))


def test_shipped_prompts_have_names_of_their_own() -> None:
    names = {prompts.file_name(scene) for scene in prompts.SHIPPED}
    assert len(names) == len(prompts.SHIPPED)
    assert names | {"empty"} == {path.stem for path in PROMPTS}


def test_a_shipped_prompt_gives_its_sprite(network: transformer.TinySkyReels, autoencoder: torch.nn.Module) -> None:
    """One short sample: the right colour on the right background."""
    from tools.tinyworld.host import wan_statistics

    mean, std = (s.view(1, 16, 1, 1, 1) for s in wan_statistics())
    scene = prompts.SHIPPED[0]
    latents = sampling.sample(network, prompts.embed(scene)[0], prompts.embed(None)[0], 0, steps=8, chunks=(5,))
    with torch.no_grad():
        frames = dataset.to_frames(vae.decode(autoencoder, latents * std + mean))
    found = tiny.measure(frames, scene)
    assert found.colour_right
    assert found.background_psnr > 22
