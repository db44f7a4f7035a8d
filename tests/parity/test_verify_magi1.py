"""The verifier on MAGI-1's cases whose settings are others than in the stored set."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.verify.check import check
from tools.verify.folder import Case, Folder, Settings
from tools.verify.magi1 import KINDS, sampling
from tools.verify.magi1.run_settings import compression_of

SUBSET = Path(__file__).resolve().parents[1] / "reference" / "magi1"


@pytest.fixture(scope="module")
def folder() -> Folder:
    return Folder(SUBSET)


def varied(folder: Folder, case_id: str, **settings: Any) -> Case:
    """A case with other settings."""
    record = copy.deepcopy(folder.case(case_id).record)
    record["settings"].update(settings)
    return Case(folder, record)


@pytest.mark.parametrize(("shortcut", "pattern"), [("8,16,16", [2.0, 1.0, 1.0]), ("16,16,8", [1.0, 1.0, 2.0])])
@pytest.mark.parametrize("steps", [12, 24, 36])
def test_intervals_of_step_counts_that_three_divides(
    folder: Folder, steps: int, shortcut: str, pattern: list[float]
) -> None:
    """The network is told half the steps whatever the interval is, but for 12; the record names the interval."""
    cases = [case for case in folder.cases if case.kind == "schedule.run" and not case.settings["history_range"]]
    changes = {"steps": steps, "shortcut_mode": shortcut, "window": 4, "prefix_latent_frames": 4, "chunks": 4}
    told = KINDS["schedule.run"].handler(varied(folder, cases[0].id, **changes))
    inner = steps // 4
    assert [step["distill_interval"] for step in told["steps"][:inner]] == pattern * (inner // 3)
    assert told["steps"][0]["prefix_extraction"]["distill_interval"] == pattern[0]


RUN = "motioncache.mixed_fixed"
NOTED: dict[str, tuple[str, dict[str, Any], str]] = {
    "not distilled": (RUN, {"distilled": False}, "setting distilled is False, computed was True"),
    "other metric": (RUN, {"metric": "mean|m|"}, "setting metric is 'mean|m|'"),
    "other metric's dtype": (RUN, {"metric_dtype": "bfloat16"}, "computed was 'float32'"),
    "other prefix": (RUN, {"prefix_rule": "pasted once"}, "setting prefix_rule is 'pasted once'"),
    "other first emission": (RUN, {"first_emission": "without the 3 prefix frames"}, "computed was 'complete'"),
    "other chunks": (RUN, {"latent_frames": 12}, "setting latent_frames is 12, computed was 9"),
    "unknown": (RUN, {"sharpness": 2}, "setting sharpness was not used"),
    "unknown table": (RUN, {"prefix": {"kind": "image"}}, "setting prefix was not used"),
    "other formula": ("schedule.timesteps.00", {"formula": "u^3"}, "setting formula is 'u^3'"),
    "other score": ("kv_compression.chunk_chunk", {"score": "importance"}, "setting score is 'importance'"),
}


@pytest.mark.parametrize("change", NOTED)
def test_no_setting_is_ignored_in_silence(folder: Folder, change: str) -> None:
    case_id, settings, note = NOTED[change]
    with torch.no_grad():
        outcome = check(varied(folder, case_id, **settings), KINDS)
    assert outcome.status == "ok" and note in outcome.line()


@pytest.mark.parametrize("case_id", [RUN, "dit.big24.plain.fp32"])
def test_a_velocity_scale_is_applied(folder: Folder, case_id: str) -> None:
    with torch.no_grad():
        outcome = check(varied(folder, case_id, velocity_scale=0.5), KINDS)
    assert outcome.status == "FAIL" and "of the tolerance" in outcome.line()


@pytest.mark.parametrize("name", ["budget", "when", "kept_order"])
def test_compression_of_another_kind_is_noted(folder: Folder, name: str) -> None:
    known = {"cache_chunks": 5, "strategy": "token", "query": "frame", "mix_lambda": 0.07, "position_weight": "1"}
    assert compression_of(varied(folder, RUN, kv_compression=known)).kernel == 7
    case = varied(folder, RUN, kv_compression={**known, "kernel": 5, name: "whenever"})
    assert compression_of(case).kernel == 5
    assert [note.split(",")[0] for note in case.notes] == [f"setting kv_compression.{name} is 'whenever'"]


def test_special_tokens_before_the_null_text_count(folder: Folder) -> None:
    """They reach the passes without prompt."""
    case = varied(folder, "sampling.t2v_cfg3_window2_nopad", negative_special_tokens=["CAPTION"])
    with torch.no_grad():
        told = check(case, KINDS)
    assert told.status == "FAIL" and told.worst is not None and told.worst.output == "v[000]"
    plain = sampling.Sampling(folder.case(case.id))
    changed = sampling.Sampling(case)
    assert plain.adapter.null_text is None
    null, count = changed.run_texts.null[0]
    assert torch.equal(changed.adapter.null_text, null[:count]) and count == 50
    assert torch.equal(null[1:count], plain.run_texts.null[0][0][: count - 1])


def test_settings_note_what_was_read() -> None:
    settings = Settings({"a": 1, "b": {"c": 2, "d": 3}, "e": [{"f": 1, "g": 2}, {"f": 3}], "h": None})
    assert settings["b"]["c"] == 2
    assert [entry["f"] for entry in settings["e"]] == [1, 3]
    assert settings.get("h") is None and settings.get("missing") is None
    assert settings.unread() == {"a", "b.d", "e.g"}
    settings.read_all("b")
    assert settings.unread() == {"a", "e.g"}


def test_frames_know_the_quirk_of_tiles_of_one_latent(folder: Folder) -> None:
    """The original decodes such a tile to one frame instead of four."""
    case = varied(folder, "vae.frames.fp32")
    latents = case.input("chunk").shape[2]
    case.settings["tile_frames"] = 4
    with torch.no_grad():
        whole = KINDS["vae.frames"].handler(case)["frames_tchw_u8"]
        case.quirks = frozenset({"single_latent_tile_one_frame"})
        short = KINDS["vae.frames"].handler(case)["frames_tchw_u8"]
    assert whole.shape[0] == 4 * latents and short.shape[0] == latents > 1
    assert case.quirks <= KINDS["vae.frames"].quirks
