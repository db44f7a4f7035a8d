"""The golden cases pass, and the verifier fails whenever it must."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.verify.__main__ import main
from tools.verify.folder import Case, Folder

REPO = Path(__file__).resolve().parents[2]
SUBSETS = REPO / "tests" / "reference"
SUBSET = SUBSETS / "skyreels_v2"
TAKEN_ALONG = {"manifest.dit_full_state_dicts"}
every_family = pytest.mark.parametrize("family", ["skyreels_v2", "magi1"])


def listing(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cases.json").read_text())


def first_of_each_kind(folder: Path) -> dict[str, str]:
    """Kind -> its first case; for whole runs and forwards the one with most outputs."""
    cases = sorted(listing(folder)["cases"], key=lambda record: -len(record["outputs"]))
    return {record["kind"]: record["id"] for record in reversed(cases)}


def outputs_to_perturb() -> Iterator[tuple[str, str]]:
    """Case and output: every output of one case of every kind, and what only the whole set holds."""
    records = {record["id"]: record for record in listing(SUBSET)["cases"]}
    for case in first_of_each_kind(SUBSET).values():
        yield from ((case, output) for output in records[case]["outputs"])
    for output in ("out_stats", "out_sel", "hidden_sel", "latents_after_row", "latents_stats"):
        yield "motioncache.low_thr_full", output
    for output in ("block0", "e0_per_frame", "e_per_frame", "patch_tokens", "text_tokens", "rope_table"):
        yield "transformer_original.full_fps24", output
    for output in ("groups_forwarded", "out_cond", "out_uncond"):
        yield "transformer_cached.ar", output
    yield "transformer_cached.direct_batch2", "out_odd"
    yield "motioncache.vbench_small_corrected.alias", "final_latents"


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a family folder to where it may be changed."""

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / folder.name, copy_function=shutil.copyfile))

    return copy


@pytest.fixture
def subset(copied: Callable[[Path], Path]) -> Path:
    """A copy of the committed subset."""
    return copied(SUBSET)


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the verifier in this process: (exit status, what it printed)."""

    def run(folder: Path, *only: str) -> tuple[int, str]:
        status = main([str(folder), *(word for case in only for word in ("--only", case))])
        return status, capsys.readouterr().out

    return run


def edit_case(folder: Path, case: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a record of `cases.json`."""
    content = listing(folder)
    change(next(record for record in content["cases"] if record["id"] == case))
    (folder / "cases.json").write_text(json.dumps(content))


def edit_arrays(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the arrays of a file in place."""
    if path.suffix == ".npz":
        with np.load(path) as stored:
            arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
        change(arrays)
        np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
        return
    with safe_open(path, framework="pt") as stored:
        metadata = stored.metadata()
    arrays = {name: array.clone() for name, array in load_file(path).items()}
    change(arrays)
    path.unlink()
    save_file(arrays, path, metadata)


def perturb(folder: Path, case: Case, output: str) -> None:
    """Change one value of an output by ten times its tolerance."""
    reference = case.record["outputs"][output]
    path = folder / case.file(reference.split(":")[0])
    tolerance = case.tolerance.get(output, case.tolerance.get("default"))
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        perturb_leaf(content[output] if output in content else content)
        path.write_text(json.dumps(content))
        return
    name = sorted(case.outputs[output].names().values())[-1]
    place = compared_place(case, output, case.folder.arrays(path.relative_to(folder).as_posix()).load(name))

    def change(arrays: dict[str, Tensor]) -> None:
        arrays[name][place] = moved(arrays[name], place, tolerance)

    edit_arrays(path, change)


def perturb_leaf(value: Any) -> None:
    """Change the last leaf below a JSON value."""
    key = len(value) - 1 if isinstance(value, list) else list(value)[-1]
    if isinstance(value[key], (list, dict)):
        perturb_leaf(value[key])
    else:
        value[key] = f"{value[key]}x" if isinstance(value[key], str) else value[key] + 1


def compared_place(case: Case, output: str, array: Tensor) -> tuple[int, ...]:
    """The last place of an array; where only updated frames count, the first frame of a row that updates it."""
    if "update_mask" not in case.compare or not output.startswith("out"):
        return tuple(size - 1 for size in array.shape)
    row, frame = case.input("update_mask").nonzero()[0].tolist()
    return (row, *(0 for _ in array.shape[1:-3]), frame, 0, 0)


def moved(array: Tensor, place: tuple[int, ...], tolerance: dict[str, Any]) -> Tensor:
    """One value, ten times its tolerance away."""
    value = array[place]
    if "exact" in tolerance:
        return ~value if value.dtype == torch.bool else value + 1
    size = array.abs().max() if "max_abs_over_max" in tolerance else 1.0
    return value + 10 * max(tolerance.values()) * size


@every_family
def test_subset_passes(family: str, verify: Callable[..., tuple[int, str]]) -> None:
    subset = SUBSETS / family
    status, told = verify(subset)
    lines = told.splitlines()
    assert status == 0, told
    assert len(lines) - 1 == len(listing(subset)["cases"]) == sum(line.startswith("ok ") for line in lines)
    kinds = {record["kind"] for record in listing(subset)["cases"]}
    assert {line.split()[2] for line in lines[:-1]} == kinds


@every_family
def test_whole_set_passes(family: str, reference_dir: Path, verify: Callable[..., tuple[int, str]]) -> None:
    if reference_dir == SUBSETS:
        pytest.skip("only where the whole set lies beside the repository")
    status, told = verify(reference_dir / family)
    assert status == 0, told
    assert f"{len(listing(reference_dir / family)['cases'])} ok, 0 failed, 0 skipped" in told


@every_family
def test_subset_is_what_the_rule_says(family: str, reference_dir: Path) -> None:
    """Same files as in the whole set, and small enough to be committed."""
    whole, subset = reference_dir / family, SUBSETS / family
    files = [path for path in subset.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4_500_000
    for path in files:
        if path.name != "cases.json":
            assert path.read_bytes() == (whole / path.relative_to(subset)).read_bytes(), path
    wanted = [r["id"] for r in listing(whole)["cases"] if r["small"] or r["id"] in TAKEN_ALONG]
    assert [record["id"] for record in listing(subset)["cases"]] == wanted


def test_as_a_program() -> None:
    """The way `dev.py` runs it, on one case and on a folder without any."""
    command = [sys.executable, str(REPO / "tools/host/run_tool.py"), "tools.verify", str(SUBSET)]
    environment = {**os.environ, "MOTIONCACHE_THREADS": "1"}
    right = subprocess.run(
        [*command, "--only", "comfy_tiny.fps0.full"], env=environment, capture_output=True, text=True
    )
    assert right.returncode == 0, right.stderr
    assert "1 ok, 0 failed, 0 skipped" in right.stdout
    command[-1] = str(SUBSET / "model")
    wrong = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert wrong.returncode != 0
    assert "cases.json" in wrong.stdout


@pytest.mark.parametrize(("case_id", "output"), list(outputs_to_perturb()))
def test_perturbed_value_is_a_miss(
    case_id: str, output: str, reference_dir: Path, copied: Callable, verify: Callable[..., tuple[int, str]]
) -> None:
    source = SUBSET if case_id in {record["id"] for record in listing(SUBSET)["cases"]} else None
    source = source or reference_dir / "skyreels_v2"
    if case_id not in {record["id"] for record in listing(source)["cases"]}:
        pytest.skip("only in the whole set")
    folder = copied(source)
    perturb(folder, Folder(source).case(case_id), output)
    status, told = verify(folder, case_id)
    assert status != 0
    assert told.startswith(f"FAIL    {case_id} ")
    assert output in told or output == "json"


def test_every_kind_is_perturbed() -> None:
    perturbed = {case for case, _ in outputs_to_perturb()}
    kinds = {record["kind"] for record in listing(SUBSET)["cases"] if record["id"] in perturbed}
    assert kinds == set(listing(SUBSET)["kinds"])


@pytest.mark.parametrize(
    ("case_id", "quirk"),
    [
        ("timestep_matrix.m12", "trailing_frames_dropped"),
        ("timestep_matrix.m17", "ready_frames_floored"),
        ("unipc_table.n150_s8", "first_index_skips"),
        ("unipc_trajectory.n8_s3.aliased", "scheduler_alias"),
        ("unit.framediff20", "no_previous_frame_is_floor"),
        ("unit.dist0", "negative_distance"),
        ("comfy_tiny.e2e", "scheduler_alias"),
        ("comfy_tiny.e2e", "stale_previous_frames"),
    ],
)
def test_quirks_are_needed(case_id: str, quirk: str, subset: Path, verify: Callable[..., tuple[int, str]]) -> None:
    """Without its quirk a case misses: nothing switches them on by itself."""
    edit_case(subset, case_id, lambda record: record["quirks"].remove(quirk))
    status, told = verify(subset, case_id)
    assert status != 0
    assert told.startswith(f"FAIL    {case_id} ")


RECORD_CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown kind": (lambda r: r.update(kind="transformer.sideways"), "unknown kind 'transformer.sideways'"),
    "unknown quirk": (lambda r: r["quirks"].append("slice_modulation"), "unknown quirk 'slice_modulation'"),
    "unknown restriction": (lambda r: r.update(compare="odd frames only"), "unknown restriction"),
    "missing file": (lambda r: r["files"].update(config="model/none.json"), "there is no file model/none.json"),
    "missing array": (lambda r: r["outputs"].update(out="arrays:fwd.none"), "has no such array"),
    "missing series": (lambda r: r["inputs"].update(x="arrays:nothing_*"), "has no such array"),
    "missing role": (lambda r: r["inputs"].update(x="tensors:fwd.x"), "there is no file role 'tensors'"),
    "missing weights": (lambda r: r.update(weights="model/none.safetensors"), "there is no file"),
    "inputs from nowhere": (lambda r: r.update(inputs_from="none"), "there is no case 'none'"),
    "missing pointer": (lambda r: r["outputs"].update(facts="config:/layers"), "does not resolve at 'layers'"),
    "no tolerance": (lambda r: r.update(tolerance={"in": {"exact": True}}), "output 'out' has no tolerance"),
    "unknown measure": (lambda r: r.update(tolerance={"default": {"psnr": 40}}), "is not understood"),
    "output not computed": (lambda r: r["outputs"].update(loss="arrays:fwd.x"), "'loss' was not compared"),
    "no outputs": (lambda r: r.update(outputs={}), "it names no outputs"),
    "missing field": (lambda r: r.pop("needs"), "field 'needs' is missing"),
    "handler fails": (lambda r: r["config"].pop("dim"), "KeyError"),
    "other setting": (lambda r: r["settings"].update(attention="windowed"), "setting attention is 'windowed'"),
}


@pytest.mark.parametrize("change", RECORD_CHANGES)
def test_bad_record_fails(change: str, subset: Path, verify: Callable[..., tuple[int, str]]) -> None:
    edit, expected = RECORD_CHANGES[change]
    edit_case(subset, "comfy_tiny.fps0.full", lambda record: edit(record) and None)
    status, told = verify(subset, "comfy_tiny.fps0.full")
    assert status != 0
    assert told.startswith("FAIL    comfy_tiny.fps0.full ")
    assert expected in told


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"blur": 3}, "setting blur was not used"),
        ({"latent_w": 8}, "setting latent_w is 8, computed was 6"),
        ({"fps": [24]}, "setting fps is [24], computed was [16]"),
    ],
)
def test_settings_that_do_not_hold_are_told_beside_the_numbers(
    changes: dict[str, Any], note: str, subset: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    edit_case(subset, "comfy_tiny.fps0.full", lambda record: record["settings"].update(changes))
    status, told = verify(subset, "comfy_tiny.fps0.full")
    assert status == 0 and told.startswith("ok ")
    assert told.splitlines()[0].endswith(f"; {note}")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda out: out.masked_fill(out == out.max(), float("nan")), "not finite"),
        (lambda out: out.double(), "dtype torch.float32 instead of torch.float64"),
        (lambda out: out[:, :, :-1].contiguous(), "shape [1, 16, 6, 4, 6] instead of [1, 16, 5, 4, 6]"),
    ],
    ids=["nan", "dtype", "shape"],
)
def test_other_array_is_a_miss(
    edit: Callable[[Tensor], Tensor], expected: str, subset: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    name = "fwd.out_fps0_full"
    edit_arrays(subset / "comfy_tiny/forward.safetensors", lambda arrays: arrays.update({name: edit(arrays[name])}))
    status, told = verify(subset, "comfy_tiny.fps0.full")
    assert status != 0
    assert expected in told


@pytest.mark.parametrize("file", ["units/functions.safetensors", "schedule/timestep_matrix.npz", "more.safetensors"])
def test_unclaimed_array_fails(file: str, subset: Path, verify: Callable[..., tuple[int, str]]) -> None:
    if not (subset / file).exists():
        save_file({"nothing": torch.zeros(1)}, subset / file)
    edit_arrays(subset / file, lambda arrays: arrays.update(stray=torch.zeros(2)))
    status, told = verify(subset, "unit.dist0")
    assert status != 0
    assert f"{file}: no case claims" in told
    assert "stray" in told


@every_family
def test_every_quirk_of_the_table_is_known(
    family: str, copied: Callable, verify: Callable[..., tuple[int, str]]
) -> None:
    folder = copied(SUBSETS / family)
    content = listing(folder)
    assert content["quirks"]
    first = content["cases"][0]["id"]
    status, told = verify(folder, first)
    assert status == 0 and "no kind knows" not in told
    content["quirks"]["time_runs_backwards"] = {"bug": 99, "what": "", "correct": ""}
    (folder / "cases.json").write_text(json.dumps(content))
    status, told = verify(folder, first)
    assert status == 0, "no case asks for it"
    assert "no kind knows the quirk 'time_runs_backwards' of its table" in told


def test_unused_must_resolve(subset: Path, verify: Callable[..., tuple[int, str]]) -> None:
    content = listing(subset)
    content["unused"].append({"file": "units/functions.safetensors", "arrays": "none*", "reason": "none"})
    (subset / "cases.json").write_text(json.dumps(content))
    status, told = verify(subset, "unit.dist0")
    assert status != 0
    assert "unused: units/functions.safetensors has no array 'none*'" in told


def test_missing_package_is_skipped_and_counted(subset: Path, verify: Callable[..., tuple[int, str]]) -> None:
    edit_case(subset, "unit.dist0", lambda record: record["needs"].append("no_such_package"))
    status, told = verify(subset, "unit.dist0", "unit.dist1")
    assert status == 0
    assert "skipped unit.dist0  unit.distance  needs no_such_package" in told
    assert "1 ok, 0 failed, 1 skipped" in told


def test_zero_cases_fail(subset: Path, verify: Callable[..., tuple[int, str]]) -> None:
    assert verify(subset, "none")[0] != 0
    content = listing(subset)
    content["cases"] = []
    (subset / "cases.json").write_text(json.dumps(content))
    status, told = verify(subset)
    assert status != 0
    assert "no cases at all" in told


def test_folder_without_cases_fails(subset: Path, verify: Callable[..., tuple[int, str]]) -> None:
    assert verify(subset / "model")[0] != 0
    (subset / "cases.json").write_text('{"cases": 3}')
    status, told = verify(subset)
    assert status != 0
    assert "not a case list" in told


def test_ids_are_unique(subset: Path, verify: Callable[..., tuple[int, str]]) -> None:
    edit_case(subset, "unit.dist1", lambda record: record.update(id="unit.dist0"))
    status, told = verify(subset, "unit.dist0")
    assert status != 0
    assert "the id 'unit.dist0' occurs 2 times" in told


def test_folder_of_families(subset: Path, verify: Callable[..., tuple[int, str]]) -> None:
    """Every family below is checked; one that is not known fails case by case."""
    shutil.copytree(subset, subset.parent / "other")
    content = listing(subset)
    content["family"] = "other"
    (subset.parent / "other" / "cases.json").write_text(json.dumps(content))
    status, told = verify(subset.parent, "unit.dist0")
    assert status != 0
    assert "FAIL    unit.dist0  unit.distance  unknown kind 'unit.distance' of family 'other'" in told
    assert "ok      unit.dist0 " in told
