"""MAGI-1 text encode on a small T5 with ComfyUI's own tokenizer and text encoder classes."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

WIDTH = 32
SWITCHES: dict[str, Any] = {
    "high_quality": False,
    "duration": False,
    "start": "from the prompt",
    "style": "from the prompt",
    "borders": False,
}
PROMPT = "A Red (fox:1.3) jumps, see http://x.com/y !"
CLEANED = "a red fox:1.3 jumps, see !"


@pytest.fixture(scope="module")
def node(pack: ModuleType) -> Iterator[Any]:
    """The node, for texts of the small T5's width."""
    module = importlib.import_module("motioncache.nodes.magi1_text")
    width, module.magi1_text.TEXT_WIDTH = module.magi1_text.TEXT_WIDTH, WIDTH
    yield module.MotionCacheMagi1TextEncode
    module.magi1_text.TEXT_WIDTH = width


@pytest.fixture(scope="module")
def clips() -> dict[str, Any]:
    """One set of random weights in the CLIP objects that CLIPLoader makes of a t5xxl file, by type."""
    import comfy.sd
    import comfy.text_encoders.genmo as mochi
    import comfy.text_encoders.pixart_t5 as pixart
    import comfy.text_encoders.sd3_clip as sd3

    targets = {
        "pixart": SimpleNamespace(clip=pixart.pixart_te(), tokenizer=pixart.PixArtTokenizer),
        "mochi": SimpleNamespace(clip=mochi.mochi_te(), tokenizer=mochi.MochiT5Tokenizer),
        "sd3": SimpleNamespace(
            clip=sd3.sd3_clip(clip_l=False, clip_g=False, dtype_t5=torch.float32), tokenizer=sd3.SD3Tokenizer
        ),
    }
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    made = {}
    for name, target in targets.items():
        target.params = {}
        options = {"t5xxl_model_config": sizes, "dtype": torch.float32}
        made[name] = comfy.sd.CLIP(target, embedding_directory=None, tokenizer_data={}, model_options=options)
        generator = torch.Generator().manual_seed(0)
        for parameter in made[name].cond_stage_model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return made


@pytest.fixture(scope="module")
def clip_l() -> Any:
    """The text encoder of Stable Diffusion, small."""
    import comfy.sd
    import comfy.sd1_clip

    target = SimpleNamespace(params={}, clip=comfy.sd1_clip.SD1ClipModel, tokenizer=comfy.sd1_clip.SD1Tokenizer)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    options = {"clip_l_model_config": sizes, "dtype": torch.float32}
    return comfy.sd.CLIP(target, embedding_directory=None, tokenizer_data={}, model_options=options)


@pytest.fixture(scope="module")
def encode(node: Any, clips: dict[str, Any]) -> Callable[..., list]:
    """Run the node."""

    def run(text: str = PROMPT, clip: str = "pixart", **switches: Any) -> list:
        return node.execute(clips[clip], text, **(SWITCHES | switches)).args[0]

    return run


@pytest.fixture
def tokens_file(tmp_path: Path, pack: ModuleType) -> Iterator[Path]:
    """special_tokens.npz in a folder of models/magi1: row r of other_tokens holds r."""
    import folder_paths

    path = tmp_path / "special_tokens.npz"
    rows = np.repeat(np.arange(100.0)[:, None], WIDTH, axis=1)
    np.savez(path, other_tokens=rows, caption_token=rows[:1], logo_token=rows[:1])
    importlib.import_module("motioncache.nodes.host.magi1_paths")
    folder_paths.add_model_folder_path("magi1", str(tmp_path))
    yield path
    folder_paths.folder_names_and_paths["magi1"][0].remove(str(tmp_path))


def chunk(conditioning: list, to_come: int) -> list[float]:
    """First values of a chunk's text, special tokens only."""
    text = importlib.import_module("motioncache.motioncache_core.models.magi1.text")
    (cond, options), *_ = conditioning
    found, count = text.chunk_text(cond, options, to_come)
    assert torch.equal(found[-cond.shape[1] :], cond[0])
    assert count == len(found)
    return found[: count - cond.shape[1], 0].tolist()


def test_every_type_of_clip_gives_the_same(encode):
    (cond, options), *more = encode()
    assert not more
    assert cond.shape[::2] == (1, WIDTH)
    assert cond.std() > 0.1
    for other in ("mochi", "sd3"):
        ((found, found_options),) = encode(clip=other)
        assert torch.allclose(found, cond, atol=1e-5)
        assert "attention_mask" not in found_options
    assert not set(options) - {"pooled_output"}


def test_it_is_t5_on_the_cleaned_prompt(encode, clips):
    clip = clips["pixart"]
    wanted = torch.tensor([clip.tokenizer.clip_t5xxl.tokenizer(CLEANED)["input_ids"]])
    network = next(m for m in clip.cond_stage_model.modules() if type(m).__name__ == "T5")
    ((cond, _),) = encode()
    assert torch.allclose(cond, network(wanted, None)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("一只猫在跑", "MAGI-1 reads English; nothing of this prompt is left after cleaning"),
        ("download", "nothing of this prompt is left after cleaning"),
        ("猫が走る on grass", "MAGI-1 reads English; the characters 猫走 are left out. What it gets: がる on grass"),
        ("a (cat:1.3), Café", None),
        ("", None),
    ],
)
def test_what_cleaning_loses_is_said(encode, text: str, said: str | None, tokens_file, caplog):
    encode(text)
    assert (said in caplog.text) if said else not caplog.records


def test_weights_are_read_as_words():
    """As the tooltip says."""
    captions = importlib.import_module("motioncache.motioncache_core.models.magi1.captions")
    assert captions.clean_caption("a (cat:1.3) on [the] mat, see http://a.com/b") == "a cat:1.3 on the mat, see"


def test_weights_and_case_do_not_matter(encode):
    ((cond, _),) = encode()
    ((same, _),) = encode(CLEANED.upper())
    assert torch.equal(cond, same)


def test_an_empty_prompt_is_its_end(encode):
    ((cond, _),) = encode("")
    assert cond.shape == (1, 1, WIDTH)


def test_a_long_prompt_is_cut_with_a_notice(encode, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        ((cond, _),) = encode("dog " * 1000)
    assert cond.shape == (1, 800, WIDTH)
    assert "longer than MAGI-1's 800 tokens; its last 201 are left out" in caplog.text


# Switches


@pytest.mark.parametrize(
    ("switches", "rows"),
    [
        ({}, []),
        ({"high_quality": True}, [1]),
        ({"high_quality": True, "duration": True}, [9, 1]),
        ({"start": "still"}, [2]),
        ({"start": "moving"}, [3]),
        ({"style": "3-D animation"}, [15]),
        ({"style": "2-D animation", "borders": True}, [16, 4]),
        ({"high_quality": True, "duration": True, "start": "still", "style": "3-D animation"}, [9, 15, 1, 2]),
    ],
)
def test_switches_put_tokens_in_front(encode, tokens_file, switches, rows):
    assert chunk(encode(**switches), 2) == rows


def test_without_the_file_the_prompt_works_and_a_notice_says_why(encode, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        conditioning = encode(high_quality=True, duration=True)
    assert chunk(conditioning, 2) == []
    assert torch.equal(conditioning[0][0], encode()[0][0])
    assert "special_tokens.npz (3.3 MB) lies in the folder example/assets" in caplog.text
    assert "put it into models/magi1" in caplog.text


def test_without_switches_nothing_is_missed(encode, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        encode()
    assert not caplog.text


def test_a_file_of_another_width_is_refused(encode, tokens_file):
    np.savez(tokens_file, other_tokens=np.zeros((100, 8)))
    with pytest.raises(ValueError, match="holds tokens of width 8; MAGI-1's have 32"):
        encode(high_quality=True)


def test_a_damaged_file_is_named(encode, tokens_file):
    tokens_file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="special_tokens.npz is damaged or no npz file"):
        encode(high_quality=True)


def test_the_node_runs_again_when_the_file_comes(node, tokens_file):
    there = node.fingerprint_inputs(text="x")
    tokens_file.unlink()
    assert node.fingerprint_inputs(text="x") != there


def test_a_saved_prompt_keeps_its_switches(encode, tokens_file, pack, tmp_path):
    prompts = importlib.import_module("motioncache.motioncache_core.prompts")
    conditioning = encode(high_quality=True, duration=True)
    prompts.save_prompt(tmp_path / "fox.safetensors", conditioning)
    loaded, _ = prompts.load_prompt(tmp_path / "fox.safetensors")
    assert chunk(loaded, 4) == chunk(conditioning, 4) == [11, 1]


# Other text encoders


def test_other_text_encoders_are_refused(node, clips, clip_l, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="clip is a text encoder of another kind .l.. MAGI-1 reads prompts with t5"):
        node.execute(clip_l, PROMPT, **SWITCHES)
    with pytest.raises(ValueError, match="clip is empty"):
        node.execute(None, PROMPT, **SWITCHES)
    module = importlib.import_module("motioncache.nodes.magi1_text")
    monkeypatch.setattr(module.magi1_text, "TEXT_WIDTH", 4096)
    with pytest.raises(ValueError, match=r"encoding of shape \[1, (\d+), 32\] instead of \[1, \1, 4096\]"):
        node.execute(clips["pixart"], PROMPT, **SWITCHES)
