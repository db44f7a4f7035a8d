"""The real ComfyUI behind the tests: it runs graphs, says what went wrong, and takes saved workflows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tools.host.environment import Environment
from tools.host.server import ComfyError, ComfyServer, PromptFailedError, PromptInterruptedError, PromptRefusedError


def picture(color: int, count: int = 2) -> dict:
    size = {"width": 64, "height": 48, "batch_size": count, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def test_a_run_brings_outputs_files_and_messages(comfy: ComfyServer):
    run = comfy.run(picture(0x102030))
    assert [file.suffix for file in run.files(2)] == [".png", ".png"]
    assert all(file.is_file() for file in run.files())
    assert run.executed == ["1", "2"]
    assert [data["node"] for data in run.events("executed")] == ["2"]
    assert run.history["status"]["completed"] is True


def test_a_node_taken_from_the_cache_is_not_among_the_executed_until_the_cache_is_freed(comfy: ComfyServer):
    comfy.run(picture(0x203040))
    again = picture(0x203040)
    again["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    assert "1" not in comfy.run(again).executed
    comfy.free()
    assert "1" in comfy.run(again).executed


def test_an_invalid_graph_is_refused_with_comfyuis_words(comfy: ComfyServer):
    broken = picture(0x304050)
    broken["1"]["inputs"]["width"] = -5
    with pytest.raises(PromptRefusedError, match="EmptyImage.*width"):
        comfy.run(broken)


def test_one_invalid_output_beside_a_good_one_is_refused_too(comfy: ComfyServer):
    broken = picture(0x405060)
    broken["3"] = {"class_type": "PreviewImage", "inputs": {}}
    with pytest.raises(PromptRefusedError, match="PreviewImage.*images"):
        comfy.run(broken)


def test_a_failing_node_raises_its_own_error(comfy: ComfyServer):
    (comfy.base / "input" / "not_a_picture.png").write_bytes(b"words")
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "not_a_picture.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    with pytest.raises(PromptFailedError) as caught:
        comfy.run(prompt)
    assert (caught.value.node_id, caught.value.node_type) == ("1", "LoadImage")
    assert "not_a_picture.png" in caught.value.exception_message
    assert comfy.run(picture(0x506070)).files(), "the server goes on after a failure"


def test_an_interrupt_ends_a_running_prompt(comfy: ComfyServer):
    """ComfyUI looks for an interrupt before each node, so a long row of blurs stops somewhere in the row."""
    prompt = {"0": picture(0x607080)["1"]}
    for place in range(1, 400):
        blur = {"image": [str(place - 1), 0], "blur_radius": 31, "sigma": 10.0}
        prompt[str(place)] = {"class_type": "ImageBlur", "inputs": blur}
    prompt["400"] = {"class_type": "PreviewImage", "inputs": {"images": ["399", 0]}}
    before = len(comfy.messages("executing"))
    prompt_id = comfy.queue(prompt)
    deadline = time.monotonic() + 200
    while len(comfy.messages("executing")) < before + 3:
        assert time.monotonic() < deadline, "the prompt never began"
        time.sleep(0.005)
    comfy.interrupt()
    with pytest.raises(PromptInterruptedError):
        comfy.wait(prompt_id, 200)
    assert len(comfy.messages("executing")) < before + 400


def test_a_server_that_cannot_start_says_why(environment: Environment, tmp_path: Path):
    server = ComfyServer(tmp_path, pack=None, environment=environment, arguments=("--no-such-flag",))
    with pytest.raises(ComfyError, match="ended with exit code 2(.|\n)*--no-such-flag"), server:
        pytest.fail("it must not come up")


def test_the_pack_in_a_used_folder_is_the_one_asked_for(environment: Environment, tmp_path: Path):
    place = tmp_path / "base" / "custom_nodes" / "motioncache"
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        ComfyServer(tmp_path / "base", pack=tmp_path / name, environment=environment).prepare()
        assert place.resolve() == tmp_path / name
    ComfyServer(tmp_path / "base", pack=None, environment=environment).prepare()
    assert not place.exists()
