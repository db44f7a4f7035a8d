"""The loader in ComfyUI: every layout becomes the same MODEL, with frame-rate term, LoRA and errors in sentences."""

from __future__ import annotations

import builtins
import copy
import importlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import websocket
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tools import tiny_checkpoints as tiny
from tools.host.server import ComfyServer, PromptRefusedError

WEIGHTS = tiny.transformer()
BIAS = "diffusion_model.time_projection.1.bias"
NO_FPS = ("no fps", "official shards, no index")


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """Nodes run in inference mode, as ComfyUI runs them."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def modules(pack: ModuleType) -> dict[str, ModuleType]:
    names = ("loaders", "host.model_info", "host.model_paths", "host.notify", "host.wan_loading")
    return {name: importlib.import_module(f"motioncache.nodes.{name}") for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pack: ModuleType) -> Iterator[Path]:
    """An empty folder that ComfyUI looks for diffusion models in."""
    import folder_paths

    place = tmp_path_factory.mktemp("diffusion_models")
    folder_paths.add_model_folder_path("diffusion_models", str(place))
    yield place
    folder_paths.folder_names_and_paths["diffusion_models"][0].remove(str(place))


@pytest.fixture(scope="module")
def paths(folder: Path) -> dict[str, Path]:
    return tiny.write_all(folder)


@pytest.fixture(scope="module")
def choice(modules: dict[str, ModuleType], paths: dict[str, Path], folder: Path) -> Callable[[str], str]:
    """Name of a layout -> what the loader's list calls it."""
    mark = modules["host.model_paths"].FOLDER_MARK

    def name(layout: str) -> str:
        relative = paths[layout].relative_to(folder).as_posix()
        return relative + mark if paths[layout].is_dir() else relative

    return name


@pytest.fixture(scope="module")
def load(modules: dict[str, ModuleType], choice: Callable[[str], str]) -> Callable:
    """Run the node on a layout."""

    def run(layout: str, weight_dtype: str = "default"):
        return modules["loaders"].MotionCacheLoadSkyReelsV2.execute(choice(layout), weight_dtype)[0]

    return run


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 16, 3, 6, 8, generator=generator)
    return x, torch.tensor([[900.0, 700.0, 100.0]]), torch.randn(1, 7, 4096, generator=generator)


@pytest.fixture(scope="module")
def forward(inputs: tuple[torch.Tensor, ...]) -> Callable:
    """One pass of ComfyUI's own forward; ``term`` is added to the time projection as our forward does it."""
    import comfy.model_management

    def run(patcher, term: torch.Tensor | None = None, loaded: bool = False) -> torch.Tensor:
        if not loaded:
            comfy.model_management.load_models_gpu([patcher])
        network = patcher.model.diffusion_model
        hook = network.time_projection.register_forward_hook(
            lambda module, args, out: out if term is None else out + term
        )
        try:
            return network(*inputs).float()
        finally:
            hook.remove()

    return run


@pytest.fixture(scope="module")
def expected(load: Callable, forward: Callable) -> dict[bool, torch.Tensor]:
    """Output with and without the frame-rate layers, from the plainest files."""
    with torch.inference_mode():
        return {True: forward(load("official fp32")), False: forward(load("no fps"))}


# Layouts


@pytest.mark.parametrize("layout", tiny.LAYOUTS)
def test_every_layout_gives_the_same_model(load, forward, expected, layout):
    output = forward(load(layout))
    assert torch.equal(output, expected[layout not in NO_FPS])


def test_the_outputs_mean_something(expected):
    assert expected[True].std() > 0.1
    assert (expected[True] - expected[False]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("weight_dtype", "kept", "tolerance"),
    [
        ("bf16", torch.bfloat16, 0.02),
        ("fp16", torch.float16, 0.002),
        ("fp32", torch.float32, 0.0),
        ("fp8_e4m3fn", torch.float8_e4m3fn, 0.3),
        ("fp8_e4m3fn_fast", torch.float8_e4m3fn, 0.3),
        ("fp8_e5m2", torch.float8_e5m2, 0.6),
    ],
)
def test_weight_dtype_is_what_the_weights_are_kept_in(load, forward, expected, weight_dtype, kept, tolerance):
    patcher = load("official fp32", weight_dtype)
    assert patcher.model.diffusion_model.blocks[0].ffn[0].weight.dtype == kept
    # only the biases, and in fp8 modulation and frame-rate term, are off the grid that all types share
    assert (forward(patcher) - expected[True]).abs().max() <= tolerance


@pytest.mark.parametrize(("weight_dtype", "kept"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_scaled_fp8_is_expanded_on_request(load, forward, expected, weight_dtype, kept):
    patcher = load("fp8 scaled e4m3fn", weight_dtype)
    assert patcher.model.diffusion_model.blocks[0].ffn[0].weight.dtype == kept
    assert (forward(patcher) - expected[True]).abs().max() <= 0.02


@pytest.mark.parametrize("layout", ["fp8 scaled e4m3fn", "fp8 scaled e5m2", "fp8 scaled partly", "comfy_quant"])
@pytest.mark.parametrize("fp8_gpu", [False, True])
def test_scaled_fp8_stays_small_and_everything_else_stays_precise(load, monkeypatch, layout, fp8_gpu):
    import comfy.model_management

    # what a GPU that multiplies in fp8 makes ComfyUI choose
    monkeypatch.setattr(comfy.model_management, "SUPPORT_FP8_OPS", fp8_gpu)
    network = load(layout).model.diffusion_model
    fp8 = (torch.float8_e4m3fn, torch.float8_e5m2)
    assert network.blocks[0].self_attn.q.weight.dtype in fp8
    small = {name for name, parameter in network.named_parameters() if parameter.dtype in fp8}
    stored = {layer + ".weight" for layer in tiny.linear_layers(tiny.TINY)}
    assert small <= stored, "no bias, norm or modulation"
    if layout in ("fp8 scaled e4m3fn", "fp8 scaled e5m2"):
        assert small == stored


def test_scaled_fp8_is_expanded_where_the_core_knows_no_layer_list(load, forward, expected, monkeypatch):
    import comfy.model_detection

    monkeypatch.setattr(comfy.model_detection, "model_config_from_unet", _without_metadata())
    monkeypatch.delattr(comfy.model_detection, "detect_layer_quantization")
    patcher = load("fp8 scaled partly")
    assert torch.equal(forward(patcher), expected[True])


def _without_metadata() -> Callable:
    """0.3.75's detection for a core that lacks the function removed in the test."""
    import comfy.model_detection

    def detect(state_dict, prefix, use_base_if_no_match=False, metadata=None):
        unet_config = comfy.model_detection.detect_unet_config(state_dict, prefix, metadata=metadata)
        return comfy.model_detection.model_config_from_unet_config(unet_config, state_dict)

    return detect


def test_newer_cores_get_comfy_quant_entries(modules, choice, monkeypatch):
    """0.3.75 cannot load these; what is checked is their form, as cores after it read it."""
    import comfy.utils

    monkeypatch.setattr(comfy.utils, "convert_old_quants", lambda *_: None, raising=False)
    loaders, loading = modules["loaders"], modules["host.wan_loading"]
    layout = loaders.read_layout(modules["host.model_paths"].resolve_model(choice("fp8 scaled e5m2")))
    sd, metadata, options = loading._scaled_fp8(loaders.read_tensors(layout), layout.config)
    assert (metadata, options) == ({}, {})
    marks = [key for key in sd if key.endswith(".comfy_quant")]
    assert {key.removesuffix(".comfy_quant") for key in marks} == set(tiny.linear_layers(tiny.TINY))
    for key in marks:
        entry = json.loads(sd[key].numpy().tobytes())
        assert entry == {"format": "float8_e5m2", "full_precision_matrix_mult": True}
        assert sd[key.replace("comfy_quant", "weight_scale")].dtype == torch.float32


@pytest.mark.parametrize(("fps", "index"), [(24, 1), (30, 1), (16, 0)])
def test_output_equals_the_original_model(modules, folder, reference_dir, fps, index):
    """Golden data: SkyReels-V2's own transformer, full attention."""
    import comfy.model_management

    data = reference_dir / "skyreels_v2" / "comfy_tiny"
    shutil.copy(data / "state_dict_bf16.safetensors", folder / "golden.safetensors")
    os.chmod(folder / "golden.safetensors", 0o644)
    patcher = modules["loaders"].MotionCacheLoadSkyReelsV2.execute("golden.safetensors", "fp32")[0]
    info = modules["host.model_info"]
    info.add_fps_patch(patcher, info.model_info(patcher), fps)
    comfy.model_management.load_models_gpu([patcher])
    golden = load_file(data / "forward.safetensors")
    output = patcher.model.diffusion_model(golden["fwd.x"], golden["fwd.t"].float(), golden["prompt"].float())
    assert (output - golden[f"fwd.out_fps{index}_full"]).abs().max() < 2e-5


# The list of models


def test_the_list_offers_folders_and_files_once_without_opening_any(modules, paths, folder, choice, monkeypatch):
    def no_opening(*_: object, **__: object) -> None:
        pytest.fail("a file was opened")

    monkeypatch.setattr(builtins, "open", no_opening)
    monkeypatch.setattr(Path, "open", no_opening)
    choices = modules["host.model_paths"].model_choices()
    assert choices == sorted(choices)
    assert len(set(choices)) == len(choices)
    for layout in paths:
        assert choice(layout) in choices
    assert not [c for c in choices if "-of-" in c or "diffusion_pytorch_model" in c or "/vae" in c]


def test_shards_beside_other_models_are_offered_by_the_first(modules, folder):
    tiny.save_shards(folder / "loose", WEIGHTS, "skyreels", 3, index=False)
    try:
        choices = modules["host.model_paths"].model_choices()
        assert [c for c in choices if "loose" in c] == [str(Path("loose") / "skyreels-00001-of-00003.safetensors")]
        layout = modules["loaders"].read_layout(folder / "loose" / "skyreels-00001-of-00003.safetensors")
        assert len(layout.tensors) == 74
    finally:
        shutil.rmtree(folder / "loose")


def test_the_packs_own_folders_are_searched(modules):
    import folder_paths

    pack_folder = modules["host.model_paths"].PACK / "tiny_world"
    assert str(pack_folder / "diffusion_models") in folder_paths.get_folder_paths("diffusion_models")
    assert str(pack_folder / "vae") in folder_paths.get_folder_paths("vae")
    prompts = folder_paths.get_folder_paths("motioncache_prompts")
    assert prompts[0] == str(Path(folder_paths.models_dir) / "motioncache_prompts")
    assert str(pack_folder / "prompts") in prompts


# Errors before anything is loaded


def test_an_unknown_name_lists_near_names_and_the_folders(modules, folder, paths):
    answer = modules["loaders"].MotionCacheLoadSkyReelsV2.validate_inputs("Wan2_1-SkyReels-V2-DF-1_3B-540P_fp33")
    assert "was not found. Nearest: Wan2_1-SkyReels-V2-DF-1_3B-540P_fp32.safetensors" in answer
    assert f"Searched: {folder}" in answer or str(folder) in answer.split("Searched:")[1]


@pytest.mark.parametrize("name", ["../secret/ (folder)", "/etc/ (folder)", "/ (folder)", "", "../../etc/passwd"])
def test_names_that_lead_out_are_unknown(modules, name):
    answer = modules["loaders"].MotionCacheLoadSkyReelsV2.validate_inputs(name)
    assert isinstance(answer, str) and "was not found" in answer


def test_validation_judges_the_file(modules, folder, paths, choice):
    node = modules["loaders"].MotionCacheLoadSkyReelsV2
    assert all(node.validate_inputs(choice(layout)) is True for layout in paths)
    assert node.validate_inputs(None) is True
    tiny.write_vae(folder)
    assert "wan_2.1_vae.safetensors is a Wan VAE. Expected" in node.validate_inputs("wan_2.1_vae.safetensors")


def test_an_unknown_weight_dtype_lists_the_legal_ones(load):
    with pytest.raises(ValueError, match="weight_dtype 'int4' is unknown; legal are default, fp8_e4m3fn"):
        load("official fp32", "int4")


def test_a_replaced_file_is_loaded_again(modules, folder, paths):
    node = modules["loaders"].MotionCacheLoadSkyReelsV2
    path = shutil.copy(paths["official bf16"], folder / "replaced.safetensors")
    first = node.fingerprint_inputs("replaced.safetensors", "default")
    assert node.fingerprint_inputs("replaced.safetensors", "default") == first
    assert node.fingerprint_inputs("replaced.safetensors", "bf16") != first
    os.utime(path, ns=(1, 1))
    assert node.fingerprint_inputs("replaced.safetensors", "default") != first


# The frame-rate term


def test_the_info_travels_with_clones_as_one_object(modules, load):
    info = modules["host.model_info"]
    patcher = load("official fp32")
    attached = info.model_info(patcher)
    assert attached.name == "Wan2_1-SkyReels-V2-DF-1_3B-540P_fp32"
    assert vars(attached.architecture) == vars(tiny.TINY)
    assert attached.fps_delta.shape == (2, 768) and attached.fps_delta.dtype == torch.float32
    assert info.model_info(patcher.clone().clone()) is attached
    assert copy.deepcopy({"a": [attached]})["a"][0] is attached
    assert torch.equal(attached.fps_term(16), attached.fps_delta[0])
    assert torch.equal(attached.fps_term(25), attached.fps_delta[1])


def test_patch_and_own_forward_give_the_same_output(modules, load, forward, expected):
    info = modules["host.model_info"]
    patcher = load("official fp32")
    assert list(patcher.patches) == [BIAS]
    own, term = info.for_own_forward(patcher, 24)
    assert own.patches == {} and list(patcher.patches) == [BIAS]
    assert torch.equal(forward(own), expected[False])
    assert (forward(own, term) - expected[True]).abs().max() < 4e-6
    assert torch.equal(forward(patcher), expected[True]), "the MODEL itself is as before"


def test_another_frame_rate_replaces_the_patch(modules, load, forward, expected):
    info = modules["host.model_info"]
    patcher = load("official fp32")
    slow = patcher.clone()
    info.add_fps_patch(slow, info.model_info(slow), 16)
    assert len(slow.patches[BIAS]) == 1
    own, term = info.for_own_forward(slow, 16)
    assert (forward(own, term) - forward(slow)).abs().max() < 4e-6
    assert (forward(slow) - expected[True]).abs().max() > 0.01
    before = slow.patches_uuid
    info.add_fps_patch(slow, info.model_info(slow), 16)
    assert slow.patches_uuid == before, "nothing changed"
    info.add_fps_patch(slow, info.model_info(slow), 24)
    assert torch.equal(forward(slow), expected[True])


def test_the_same_change_has_the_same_id(modules, load):
    """Else ComfyUI would move all weights again in every run."""
    info = modules["host.model_info"]
    patcher = load("official fp32")
    first, second = info.without_fps_patch(patcher), info.without_fps_patch(patcher.clone())
    assert first.patches_uuid == second.patches_uuid != patcher.patches_uuid
    assert info.without_fps_patch(first).patches_uuid == first.patches_uuid


def test_a_model_without_frame_rate_layers_has_no_patch(modules, load):
    info = modules["host.model_info"]
    patcher = load("no fps")
    assert patcher.patches == {}
    assert info.model_info(patcher).fps_term(24) is None
    assert info.for_own_forward(patcher, 24)[1] is None
    info.add_fps_patch(patcher, info.model_info(patcher), 24)
    assert patcher.patches == {}


def test_a_model_of_another_loader_is_left_alone(modules, paths):
    import comfy.sd

    info = modules["host.model_info"]
    patcher = comfy.sd.load_diffusion_model(str(paths["official fp32"]))
    patcher.add_patches({BIAS: ("diff", (torch.ones(768),))})
    assert info.model_info(patcher) is None
    own, term = info.for_own_forward(patcher, 24)
    assert term is None and list(own.patches) == [BIAS]
    assert list(info.without_fps_patch(patcher).patches) == [BIAS]


def test_info_of_the_wrong_size_is_refused(modules, load):
    info = modules["host.model_info"]
    architecture = info.model_info(load("no fps")).architecture
    with pytest.raises(ValueError, match=r"fps_delta has shape \(2, 7\), expected \(2, 768\)"):
        info.SkyReelsV2Info("a", architecture, torch.zeros(2, 7))


# LoRA, merging, offloading


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, pack: ModuleType) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """A LoRA on attention and on the layer of the frame-rate term, weight and bias; and what it adds to the weights."""
    import folder_paths

    generator = torch.Generator().manual_seed(2)
    file: dict[str, torch.Tensor] = {}
    added: dict[str, torch.Tensor] = {}
    for layer in ("blocks.1.self_attn.v", "time_projection.1", "blocks.0.ffn.2"):
        rows, columns = WEIGHTS[f"{layer}.weight"].shape
        up, down = torch.randn(rows, 4, generator=generator), torch.randn(4, columns, generator=generator) / 20
        file[f"diffusion_model.{layer}.lora_B.weight"] = up
        file[f"diffusion_model.{layer}.lora_A.weight"] = down
        added[f"{layer}.weight"] = up @ down
    bias = torch.randn(768, generator=generator)
    file["diffusion_model.time_projection.1.diff_b"] = bias
    added["time_projection.1.bias"] = bias
    place = tmp_path_factory.mktemp("loras")
    save_file(file, place / "tiny_lora.safetensors")
    folder_paths.add_model_folder_path("loras", str(place))
    yield "tiny_lora.safetensors", added
    folder_paths.folder_names_and_paths["loras"][0].remove(str(place))


@pytest.mark.parametrize(
    "layout", ["official fp32", "diffusers folder", "fp8 scaled e4m3fn", "comfy_quant", "fp8 e4m3fn"]
)
def test_the_core_lora_loader_works(modules, load, forward, lora, expected, layout):
    from nodes import LoraLoaderModelOnly

    name, added = lora
    patcher = load(layout)
    with_lora = LoraLoaderModelOnly().load_lora_model_only(patcher, name, 0.7)[0]
    merged = dict(WEIGHTS)
    for key, change in added.items():
        merged[key] = merged[key] + 0.7 * change
    target = forward(_from_weights(modules, merged))
    quantised = isinstance(patcher.model.diffusion_model.blocks[1].self_attn.v.weight, torch.nn.Parameter) and (
        patcher.model.diffusion_model.blocks[1].self_attn.v.weight.dtype.itemsize == 1
    )
    # quantised weights are rounded again after the LoRA is added
    tolerance = 0.3 if quantised else 2e-5
    output = forward(with_lora)
    assert (output - target).abs().max() < tolerance
    assert (output - expected[True]).abs().max() > 2 * tolerance

    own, term = modules["host.model_info"].for_own_forward(with_lora, 24)
    assert len(with_lora.patches[BIAS]) == 2 and len(own.patches[BIAS]) == 1
    assert (forward(own, term) - output).abs().max() < 1e-5
    assert torch.equal(forward(patcher), expected[True]), "the base is unharmed"


def _from_weights(modules: dict[str, ModuleType], weights: dict[str, torch.Tensor]):
    """A MODEL of these weights, without going through a file."""
    checkpoint = importlib.import_module("motioncache.motioncache_core.models.skyreels_v2.checkpoint")
    info = modules["host.model_info"]
    fps = {key: tensor for key, tensor in weights.items() if key.startswith("fps_")}
    rest = {key: tensor.clone() for key, tensor in weights.items() if key not in fps}
    config = importlib.import_module(f"{checkpoint.__package__}.architecture").ArchitectureConfig(**vars(tiny.TINY))
    patcher = modules["host.wan_loading"].load_wan(checkpoint.Weights(rest, fps, {}, {}, False), config)
    attached = info.SkyReelsV2Info("merged", config, checkpoint.fps_delta(fps))
    info.attach(patcher, attached)
    info.add_fps_patch(patcher, attached)
    return patcher


def test_a_lora_below_the_frame_rate_patch_is_kept(modules, load, forward, lora):
    """The order of patches does not matter: a LoRA put on first, the frame-rate patch after it."""
    from nodes import LoraLoaderModelOnly

    info = modules["host.model_info"]
    bare = info.without_fps_patch(load("official fp32"))
    with_lora = LoraLoaderModelOnly().load_lora_model_only(bare, lora[0], 1.0)[0]
    output = forward(with_lora, info.model_info(bare).fps_term(24))
    both = with_lora.clone()
    info.add_fps_patch(both, info.model_info(both), 24)
    assert (forward(both) - output).abs().max() < 1e-5
    assert (forward(info.without_fps_patch(both), info.model_info(both).fps_term(24)) - output).abs().max() < 1e-5


def test_weights_cast_at_use_give_the_same_output(modules, load, forward, lora):
    """Offloading: ComfyUI then applies patches to a copy of each weight when it is needed."""
    from nodes import LoraLoaderModelOnly

    with_lora = LoraLoaderModelOnly().load_lora_model_only(load("official fp32"), lora[0], 0.7)[0]
    whole = forward(with_lora)
    with_lora.detach()
    with_lora.load(torch.device("cpu"), lowvram_model_memory=1)
    try:
        assert with_lora.model.diffusion_model.time_projection[1].bias_function
        assert torch.equal(forward(with_lora, loaded=True), whole)
    finally:
        with_lora.detach()


def test_a_merged_model_keeps_the_term_in_its_weights(modules, load, forward):
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    info = modules["host.model_info"]
    other_weights = tiny.transformer(seed=5)
    merged = ModelMergeSimple().merge(load("official fp32"), _from_weights(modules, other_weights), 0.25)[0]
    own, term = info.for_own_forward(merged, 24)
    assert term is None
    assert torch.equal(forward(own), forward(merged))
    # ComfyUI merges the weights of layers; bare parameters stay those of the first model
    stays = (*tiny.FPS_KEYS, *(key for key in WEIGHTS if key.endswith("modulation")))
    mixed = {key: 0.25 * WEIGHTS[key] + 0.75 * other_weights[key] for key in WEIGHTS}
    plain = _from_weights(modules, mixed | {key: WEIGHTS[key] for key in stays})
    first = info.model_info(load("official fp32")).fps_term(24)
    second = info.model_info(_from_weights(modules, other_weights)).fps_term(24)
    bare = info.without_fps_patch(plain)
    assert (forward(bare, 0.25 * first + 0.75 * second) - forward(merged)).abs().max() < 2e-5


def test_a_stock_sampler_sees_the_frame_rate_term(modules, load):
    from nodes import common_ksampler

    info = modules["host.model_info"]
    generator = torch.Generator().manual_seed(3)
    prompts = [[[torch.randn(1, 5, 4096, generator=generator), {}]] for _ in range(2)]
    latent = {"samples": torch.zeros(1, 16, 3, 6, 8)}

    def sample(patcher) -> torch.Tensor:
        return common_ksampler(patcher, 7, 3, 4.0, "euler", "simple", *prompts, latent)[0]["samples"]

    patcher = load("official fp32")
    own, term = info.for_own_forward(patcher, 24)
    hook = own.model.diffusion_model.time_projection.register_forward_hook(lambda module, args, out: out + term)
    try:
        target = sample(own)
    finally:
        hook.remove()
    output = sample(patcher)
    assert (output - target).abs().max() < 2e-5
    assert (output - sample(own)).abs().max() > 1e-3


# In the server


def test_a_graph_with_stock_nodes_runs_and_the_notice_reaches_the_node(comfy: ComfyServer, tmp_path):
    models = comfy.base / "models"
    paths = tiny.write_all(tmp_path)
    for place in ("diffusion_models", "vae", "motioncache_prompts"):
        (models / place).mkdir(parents=True, exist_ok=True)
    name = "test_loaders_fp8_scaled.safetensors"
    shutil.copy(paths["fp8 scaled e4m3fn"], models / "diffusion_models" / name)
    shutil.copytree(paths["official shards"], models / "diffusion_models" / "test_loaders" / "SkyReels")
    tiny.write_vae(models / "vae")
    metadata = {"format": "motioncache_prompt", "version": "1", "text": "tiny"}
    save_file(
        {"entries.0.cond": torch.randn(1, 4, 4096)}, models / "motioncache_prompts" / "tiny.safetensors", metadata
    )

    def graph(model_name: str, weight_dtype: str) -> dict:
        loader = {"model_name": model_name, "weight_dtype": weight_dtype}
        size = {"width": 64, "height": 48, "length": 5, "batch_size": 1}
        sampler = {"seed": 1, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
        links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]}
        return {
            "1": {"class_type": "MotionCacheLoadSkyReelsV2", "inputs": loader},
            "2": {"class_type": "MotionCacheLoadPrompt", "inputs": {"prompt_name": "tiny.safetensors"}},
            "3": {"class_type": "EmptyHunyuanLatentVideo", "inputs": size},
            "4": {"class_type": "KSampler", "inputs": sampler | links},
            "5": {"class_type": "VAELoader", "inputs": {"vae_name": "wan_2.1_vae.safetensors"}},
            "6": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["5", 0]}},
            "7": {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}},
        }

    info = comfy.object_info("MotionCacheLoadSkyReelsV2")["MotionCacheLoadSkyReelsV2"]
    options = info["input"]["required"]["model_name"][1]["options"]
    assert {name, "test_loaders/SkyReels/ (folder)"} <= set(options)

    watcher = websocket.create_connection(f"ws://{comfy.address}/ws?clientId=watcher", timeout=30)
    try:
        assert len(comfy.run(graph(name, "fp8_e5m2")).files("7")) == 5
        texts = []
        while not texts:
            received = watcher.recv()
            if isinstance(received, bytes) and struct.unpack(">I", received[:4]) == (3,):
                length = struct.unpack(">I", received[4:8])[0]
                texts.append((received[8 : 8 + length].decode(), received[8 + length :].decode()))
    finally:
        watcher.close()
    notice = "test_loaders_fp8_scaled is scaled fp8 already; weight_dtype fp8_e5m2 has no effect."
    summary = "test_loaders_fp8_scaled: width 128, 2 blocks; official layout, file, float8_e4m3fn, scaled, 74 tensors"
    assert texts == [("1", f"{summary}\n{notice}")]
    assert notice in comfy.log()

    assert len(comfy.run(graph("test_loaders/SkyReels/ (folder)", "default")).files("7")) == 5
    with pytest.raises(PromptRefusedError, match="'absent' was not found. .*Searched: "):
        comfy.run(graph("absent", "default"))
    with safe_open(models / "vae" / "wan_2.1_vae.safetensors", "pt") as file:
        assert file.get_slice("decoder.conv1.weight").get_shape() == [32, 16, 3, 3, 3]


def test_notices_outside_of_a_server_go_to_the_log(modules, caplog):
    modules["host.notify"].notify(None, "something to know")
    modules["host.notify"].notify("3", "something else")
    assert [record.message for record in caplog.records] == ["something to know", "something else"]
