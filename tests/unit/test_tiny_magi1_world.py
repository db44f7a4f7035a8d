"""Training of the tiny MAGI-1: what it is shown, that it learns, that it goes on where it stopped, what it leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from motioncache_core.models.magi1.checkpoint import read_layout
from motioncache_core.models.magi1.items import Fresh
from motioncache_core.models.magi1.plan import SamplingSettings, build_plan
from motioncache_core.models.magi1.schedule import stages, time_table
from tools.host.environment import REPO
from tools.tinyworld import dataset, magi1, prompts, training, vae
from tools.tinyworld.world import World, render
from tools.train_tiny_magi1 import FILE, VAE_FILE

RECIPE = training.Recipe(steps=40, batch=2, warm_up=4)


@pytest.fixture(scope="module")
def data() -> dataset.Dataset:
    """Clips of the world: 12 latent frames, two chunks."""
    autoencoder = dataset.load_vae(REPO / "tiny_world" / VAE_FILE)
    trained = [scene for scene in dataset.known_scenes() if not dataset.held_out(scene)][:3]
    from tools.tinyworld.host import wan_statistics

    mean, std = (s.view(1, 16, 1, 1, 1) for s in wan_statistics())
    latents, places = [], []
    for number, scene in enumerate(trained):
        clip = render(scene, number, World(frames=45))
        with torch.no_grad():
            latents.append((vae.encode(autoencoder, dataset.to_video(clip.frames)) - mean) / std)
        places.append(dataset.pool_coverage(torch.from_numpy(clip.coverage).amax(0)))
    contexts = torch.cat([prompts.embed(scene) for scene in trained])
    kind = torch.zeros(3, dtype=torch.long)
    made = dataset.Dataset(
        torch.cat(latents), torch.stack(places), torch.arange(3), kind, contexts, prompts.embed(None)[0]
    )
    made.latents, made.contexts = magi1.to_model_units(made.latents), magi1.narrowed(made.contexts)
    return made


def clip_in(stage: int, chunks: int = 4, seed: int = 0) -> magi1.Batch:
    """One clip of noise in a stage of its run."""
    generator = torch.Generator().manual_seed(seed)
    batch = magi1.Batch([], {}, {}, {})
    clean = torch.randn(16, 6 * chunks, 4, 4, generator=generator)
    stage = stages(chunks, 4, 0)[stage]
    magi1.add_clip(batch, clean, torch.ones(6 * chunks, 4, 4), torch.zeros(8, 64), stage, generator)
    return batch


def test_items_stand_where_a_run_of_the_sampler_puts_them():
    """Times, places and what chunks see, against the plan of 64 steps."""
    plan = build_plan(SamplingSettings(frames=6 * 24, steps=64, shift=3.0, attention="staged window"))
    for number in range(9):
        rows = [call for call in plan.calls if call.kind == "denoise" and number * 16 <= call.row < number * 16 + 16]
        assert rows
        for seed in range(8):
            batch = clip_in(number, 6, seed)
            starts = [item.start // 6 for item in batch.items]
            active = [part.chunk for part in rows[0].parts]
            clean = [active[0] - 1] if active[0] else []
            assert starts[: len(clean) + len(active)] == clean + active
            for place, part in zip(range(len(clean), len(clean) + len(active)), rows[0].parts, strict=True):
                seen = [starts[read.item] for read in batch.items[place].reads]
                assert seen == [c for c in range(part.reads[0] // 6, part.reads[1] // 6) if c in starts]
            assert all(all(isinstance(read, Fresh) for read in item.reads) for item in batch.items)
            times = [batch.times[place] for place in sorted(batch.times)][: len(active)]
            assert times == sorted(times, reverse=True) and 0 <= times[-1] and times[0] <= 1


def test_times_are_the_samplers():
    for shift in (1.2, 3.0):
        table = time_table(16, shift=shift)
        assert [magi1.time_at(step / 16, shift) for step in range(16)] == pytest.approx(table[:16], abs=1e-6)


def test_shifts_make_up_for_the_size_of_the_latents():
    """At shift 1.2 a chunk is at the signal-to-noise ratio that unit-sized latents have at 3."""
    from tools.tinyworld.host import wan_statistics

    size = float(wan_statistics()[1].mean()) * magi1.SCALE
    for place in (0.25, 0.5, 0.75):
        own, usual = (magi1.time_at(place, shift) for shift in (magi1.SHIFT, 3.0))
        assert size * own / (1 - own) == pytest.approx(usual / (1 - usual), rel=0.06)


def test_all_that_sampling_needs_is_trained():
    kinds = set()
    for seed in range(60):
        batch = clip_in(seed % 7, seed=seed)
        finished = [i for i in range(len(batch.items)) if i not in batch.targets]
        kinds |= {"clean" if batch.items[i].text is None else "as in its last step" for i in finished}
        alone = [i for i in batch.targets if batch.items[i].reads == (Fresh(i),) and batch.items[i].start]
        kinds |= {"alone"} if alone and batch.items[-1].reads == (Fresh(len(batch.items) - 1),) else set()
        kinds |= {f"stride {item.step_length:g}" for item in batch.items}
    assert kinds == {"clean", "as in its last step", "alone", "stride 4", "stride 8", "stride 16", "stride 32"}


class StoppedError(Exception):
    pass


def trained(
    data: dataset.Dataset, folder: Path, recipe: training.Recipe, stop_before: int | None = None
) -> tuple[list[float], dict[str, Tensor]]:
    """(losses, averaged weights) of a training, which may be stopped before one of its steps."""
    model, kept, made = magi1.build(), {}, []
    magi1.initialise(model, 0)

    def loss(generator: torch.Generator, step: int) -> Tensor:
        if len(made) == stop_before:
            raise StoppedError
        made.append(magi1.loss_on(model, magi1.random_batch(data, recipe, generator)))
        return made[-1]

    def keep(average: dict[str, Tensor], step: int) -> None:
        kept.update(average)

    folder.mkdir(exist_ok=True)
    job = training.Training("magi1", model, lambda name: ".layers." in name, loss, folder / "magi1.pt", keep)
    return training.run(0, job, recipe, 0), kept


def test_a_few_steps_lower_the_loss(data: dataset.Dataset, tmp_path: Path):
    losses, _ = trained(data, tmp_path, RECIPE)
    assert len(losses) == 40
    assert sum(losses[-8:]) < 0.75 * sum(losses[:8])


def test_a_stopped_training_goes_on_bit_equal(data: dataset.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    short = replace(RECIPE, steps=4, batch=1)
    losses, whole = trained(data, tmp_path / "whole", short)
    with pytest.raises(StoppedError):
        trained(data, tmp_path / "stopped", short, stop_before=3)
    rest, resumed = trained(data, tmp_path / "stopped", short)
    assert rest == losses[2:]
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    none, again = trained(data, tmp_path / "whole", short)
    assert none == [] and all(torch.equal(again[key], whole[key]) for key in whole), "written once more"


def test_the_file_is_small_and_the_packs_loader_knows_it(tmp_path: Path):
    model = magi1.build()
    magi1.initialise(model, 1)
    magi1.export(model.state_dict(), tmp_path / FILE, 7, 1)
    assert (tmp_path / FILE).stat().st_size < 2_500_000
    layout = read_layout(tmp_path / FILE)
    assert layout.config == magi1.CONFIG and layout.distilled is True and layout.notices == ()
    stored = load_file(tmp_path / FILE)
    back = magi1.build()
    back.load_state_dict({key: value.float() for key, value in stored.items()})
    for key, value in back.state_dict().items():
        assert torch.equal(value, model.state_dict()[key].half().float()), key


def test_prompts_are_written_for_its_text_width(tmp_path: Path):
    magi1.write_prompts(tmp_path)
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) == len(prompts.SHIPPED)
    for path in files:
        assert load_file(path)["entries.0.cond"].shape == (1, prompts.TOKENS, 64)
