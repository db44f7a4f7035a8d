"""The view in graphs beyond the demo: several samplers, a subgraph, the SAMPLER object, the preview node; transport."""

from __future__ import annotations

import json
import random
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tools.host.server import ComfyServer
from tools.host.stage import DEMO, SAMPLER, Stage, sampler_graph

OBJECT, PREVIEW = "MotionCacheAutoregressiveSamplerObject", "MotionCacheMotionMaskPreview"


@pytest.fixture(scope="module")
def stage(browser: Any, comfy: ComfyServer) -> Iterator[Stage]:
    made = Stage.open(browser, comfy, "1.32.9 classic", False)
    yield made
    made.page.context.close()
    assert not [error for error in made.errors if "motioncache" in error.lower()]


def add_second_sampler(stage: Stage) -> None:
    """Another sampler beside the first, with other steps."""
    stage.page.evaluate(
        """kind => {
          const first = window.mc.node(kind);
          const second = LiteGraph.createNode(kind);
          app.graph.add(second);
          second.pos = [first.pos[0], first.pos[1] + 1200];
          for (const widget of first.widgets) {
            const own = second.widgets.find((w) => w.name === widget.name);
            if (own && widget.name !== "motioncache_view") own.value = widget.value;
          }
          for (const [index, input] of first.inputs.entries()) {
            if (input.link === null || input.link === undefined) continue;
            const link = app.graph.getLink?.(input.link) ?? app.graph.links[input.link];
            const place = second.inputs.findIndex((i) => i.name === input.name);
            app.graph.getNodeById(link.origin_id).connect(link.origin_slot, second, place);
          }
          const shown = LiteGraph.createNode("PreviewAny");
          app.graph.add(shown);
          second.connect(2, shown, 0);
          second.widgets.find((w) => w.name === "steps").value = 8;
        }""",
        SAMPLER,
    )


def test_each_of_several_samplers_shows_its_own_run(stage: Stage) -> None:
    stage.graph(sampler_graph())
    add_second_sampler(stage)
    stage.until(lambda: stage.page.evaluate("kind => window.mc.nodes(kind).length", SAMPLER) == 2)
    stage.queue()
    one, two = stage.finished(SAMPLER, 0), stage.finished(SAMPLER, 1)
    assert one["run"]["id"] != two["run"]["id"]
    assert sorted(len(state["run"]["cells"]) for state in (one, two)) == [3 * 8, 3 * 20]


def test_the_view_works_inside_a_subgraph(stage: Stage) -> None:
    stage.graph(sampler_graph())
    before = stage.state()["run"]
    stage.page.evaluate(
        """kind => {
          const node = window.mc.node(kind);
          app.canvas.graph.convertToSubgraph(new Set([node]));
        }""",
        SAMPLER,
    )
    ids = stage.until(lambda: [i for i in stage.call("v.ids()") if ":" in i])
    stage.until(lambda: "3 chunks × 20 steps, reuse can begin at step 4" in stage.state()["words"][0])
    stage.queue()
    ended = stage.finished(other_than=before and before["id"])
    assert len(ended["run"]["cells"]) == 60
    with urllib.request.urlopen(f"{stage.comfy.url}/motioncache/state?node={ids[0]}") as answer:
        assert json.loads(answer.read())["state"]["run"] == ended["run"]["id"]


def prompt_of(comfy: ComfyServer, **sampler: Any) -> tuple[dict[str, Any], str]:
    """The demo's prompt and its sampler's id."""
    prompt = comfy.convert(json.loads(DEMO.read_text(encoding="utf-8")))
    key = next(key for key, node in prompt.items() if node["class_type"] == SAMPLER)
    prompt[key]["inputs"] |= {"seed": random.randrange(2**31)} | sampler
    return prompt, key


def test_the_preview_node_shows_the_decoded_video(stage: Stage) -> None:
    graph = json.loads(DEMO.read_text(encoding="utf-8"))
    stage.graph(graph)
    stage.page.evaluate(
        """([sampler, preview]) => {
          const from = window.mc.node(sampler);
          const decode = app.graph.nodes.find((n) => n.type === "VAEDecode");
          const node = LiteGraph.createNode(preview);
          app.graph.add(node);
          node.pos = [1160, 900];
          const place = (name) => node.inputs.findIndex((i) => i.name === name);
          from.connect(3, node, place("decisions"));
          from.connect(1, node, place("report"));
          decode.connect(0, node, place("images"));
          for (const kind of ["SaveVideo", "SaveAnimatedWEBP"])
            app.graph.nodes.filter((n) => n.type === kind).forEach((n) => (n.mode = 2));
        }""",
        [SAMPLER, PREVIEW],
    )
    stage.until(lambda: stage.page.evaluate("kind => Boolean(window.mc.view(kind))", PREVIEW))
    stage.set(SAMPLER, "frames", 17)  # one chunk: decoding is slow
    stage.set(SAMPLER, "seed", random.randrange(2**31))
    stage.queue()
    shown = stage.finished(PREVIEW)
    assert len(shown["run"]["cells"]) == 20
    stage.until(lambda: stage.call("Boolean(v.run.thumbnails.get(0)?.image)", PREVIEW))
    stage.call("(v.shows = 'none', v.choose(0, 19, 4))", PREVIEW)
    picture = stage.pixels("picture", PREVIEW)
    assert picture[..., :3].std() > 10
    width = stage.call("v.run.thumbnails.get(0).image.width", PREVIEW)
    assert width == 96, "the decoded video's pixels"
    stage.call("(v.shows = 'both', v.choose(0, 18, 2))", PREVIEW)
    stage.look(PREVIEW, scale=1.5)
    stage.settle(PREVIEW)
    stage.shot("motion mask preview")


def test_events_are_few_and_small_and_make_up_the_whole(comfy: ComfyServer) -> None:
    prompt, key = prompt_of(comfy)
    kept = {k: n for k, n in prompt.items() if n["class_type"].startswith(("MotionCacheLoad", "MotionCacheApply"))}
    kept |= {key: prompt[key], **{k: n for k, n in prompt.items() if n["class_type"] == "VAELoader"}}
    kept["shown"] = {"class_type": "PreviewAny", "inputs": {"source": [key, 2]}}
    run = comfy.run(kept, timeout=600)
    (final,) = run.outputs[key]["motioncache"]
    events = [event for event in run.events("motioncache.live") if event["run"] == final["run"]]
    assert len(events) <= 10 * run.seconds + 2
    assert max(len(json.dumps(event)) for event in events) < 16_000
    assert sorted(len(json.dumps(event)) for event in events)[len(events) // 2] < 4_000
    cells = {tuple(cell[:2]): cell for event in events for cell in event["cells"]}
    assert cells == {tuple(cell[:2]): cell for cell in final["cells"]}
    assert events[-1]["status"] == "finished" and events[-1]["totals"] == final["totals"]
    assert all(later["base"] == event["seq"] for event, later in zip(events, events[1:], strict=False))


def test_routes_answer_what_is_asked_wrong_with_a_sentence(comfy: ComfyServer) -> None:
    def status(route: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(urllib.request.Request(comfy.url + route, body)) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    assert status("/motioncache/state?node=none") == (200, {"state": None})
    assert status("/motioncache/pictures?run=none&lane=0")[0] == 404
    assert status("/motioncache/thumbnails?run=../../etc&lane=-1")[0] == 404
    for body, said in ((b"{", "no JSON"), (b"[]", "table of values"), (b'{"node": "KSampler"}', "node is 'KSampler'")):
        code, answer = status("/motioncache/plan", body)
        assert code == 400 and said in answer["error"], body
    code, answer = status("/motioncache/plan", b" " * 70_000)
    assert code == 400 and "longer than" in answer["error"]


def test_the_sampler_object_shows_its_run(comfy: ComfyServer) -> None:
    prompt, key = prompt_of(comfy)
    sampler = prompt[key]["inputs"]
    names = ("fps", "chunk_size", "ar_step", "window", "overlap", "attention", "history_noise", "clean_refresh")
    graph = {k: n for k, n in prompt.items() if n["class_type"].startswith(("MotionCacheLoad", "MotionCacheApply"))}
    graph |= {
        "object": {
            "class_type": OBJECT,
            "inputs": {n: sampler[n] for n in (*names, "solver", "kv_precision", "kv_place")},
        },
        "guider": {
            "class_type": "CFGGuider",
            "inputs": {n: sampler[n] for n in ("model", "positive", "negative")} | {"cfg": 2.0},
        },
        "noise": {"class_type": "RandomNoise", "inputs": {"noise_seed": sampler["seed"]}},
        "sigmas": {
            "class_type": "BasicScheduler",
            "inputs": {"model": sampler["model"], "scheduler": "simple", "steps": 10, "denoise": 1.0},
        },
        "latent": {
            "class_type": "EmptyHunyuanLatentVideo",
            "inputs": {"width": 96, "height": 96, "length": 57, "batch_size": 1},
        },
        "sample": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["noise", 0],
                "guider": ["guider", 0],
                "sampler": ["object", 0],
                "sigmas": ["sigmas", 0],
                "latent_image": ["latent", 0],
            },
        },
        "save": {"class_type": "SaveLatent", "inputs": {"samples": ["sample", 0], "filename_prefix": "object"}},
    }
    run = comfy.run(graph, timeout=600)
    events = [event for event in run.events("motioncache.live") if event["node"] == "object"]
    assert events[-1]["status"] == "finished"
    with urllib.request.urlopen(f"{comfy.url}/motioncache/state?node=object") as answer:
        state = json.loads(answer.read())["state"]
    assert state["kind"] == OBJECT and len(state["cells"]) == 30 and state["cache"] == "token"
    assert [entry[2] for entry in state["thumbnails"]] == [1, 1, 1], "every chunk's latents can be seen"
