"""Takes as files: they go on bit-equal, and files that do not fit are refused before anything is lost."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.nodes.test_magi1_storyboard import DISTILLED
from tests.nodes.test_magi1_storyboard import Board as MagiBoard
from tests.nodes.test_storyboard import Board


class Files:
    """Saving and loading in a folder of the test's own."""

    def __init__(self, mc: Any, folder: Path):
        self.mc, self.folder = mc, folder
        self.nodes = mc.module("nodes.takes")

    def save(self, take: Any, name: str = "a", **options: Any) -> Path:
        inputs = {"overwrite": True, "with_memory": True} | options
        self.nodes.MotionCacheSaveTake.execute(take, name, **inputs)
        return self.folder / f"{name}.safetensors"

    def load(self, model: Any, name: str = "a.safetensors") -> Any:
        return self.nodes.MotionCacheLoadTake.execute(name, model).args[0]


@pytest.fixture
def files(mc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    import folder_paths

    places = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "motioncache_takes", places)
    folder_paths.filename_list_cache.clear()
    return Files(mc, tmp_path)


@pytest.fixture
def board(mc: Any) -> Board:
    return Board(mc)


def test_a_loaded_take_goes_on_bit_equal(board: Board, files: Files):
    take = board.more(board.begin(), 3)
    files.save(take)
    loaded = files.load(board.mc.cached())
    straight, report, _ = board.finish(board.more(take, 2))
    found, again, _ = board.finish(board.more(loaded, 2))
    assert torch.equal(found, straight)
    assert again["summary"]["computed_fraction"] == report["summary"]["computed_fraction"]
    assert again["summary"]["branch_steps"] == report["summary"]["branch_steps"]
    assert len(again["calls"]) == len(report["calls"])


def test_a_loaded_magi1_take_goes_on_bit_equal(magi: Any, files: Files):
    board = MagiBoard(magi)
    model = magi.cached(magi.load(DISTILLED))
    take = board.more(board.begin(model), 4)
    files.save(take)
    straight = board.finish(board.more(take, 1))[0]
    assert torch.equal(board.finish(board.more(files.load(model), 1))[0], straight)


def test_without_memory_a_take_is_small_and_goes_on(board: Board, files: Files):
    take = board.more(board.begin(), 4)
    whole = files.save(take, "whole").stat().st_size
    small = files.save(take, "small", with_memory=False).stat().st_size
    assert small < whole
    assert board.finish(files.load(board.mc.cached(), "small.safetensors"))[0].isfinite().all()


def test_an_interrupted_node_loses_only_what_was_in_flight(board: Board, files: Files, monkeypatch: Any):
    """Autosave keeps what was there when a chunk became clean; what was made after that is made again."""
    import comfy.model_management as management

    straight = board.finish(board.more(board.begin(), 5))[0]
    made = 0

    def count() -> None:
        nonlocal made
        made += (files.folder / "kept.safetensors").exists()
        if made == 7:
            raise management.InterruptProcessingException

    with monkeypatch.context() as patch:
        patch.setattr(management, "throw_exception_if_processing_interrupted", count)
        with pytest.raises(management.InterruptProcessingException):
            board.finish(board.more(board.begin(), 5, autosave="kept", autosave_memory=True))
    loaded = files.load(board.mc.cached(), "kept.safetensors")
    assert 0 < len(loaded.finished) < 5 and loaded.chunks == 5
    assert torch.equal(board.finish(loaded)[0], straight)


def test_an_interrupt_in_the_call_that_finishes_a_chunk_keeps_it(board: Board, files: Files, monkeypatch: Any):
    """ComfyUI looks for one whenever a node tells how far it is."""
    import comfy.model_management as management

    run = board.mc.module("nodes.host.take_run")
    heard: list[int] = []

    class Interrupted(run.PacedCallback):
        def __call__(self, call: int, x0: Any, x: Any, total: int) -> None:
            if call == finishing:
                raise management.InterruptProcessingException

    hear = run._Going._take_note
    monkeypatch.setattr(run._Going, "_take_note", lambda s, e: (heard.append(type(e).__name__), hear(s, e)))
    board.more(board.begin(), 5)
    finishing = heard[: heard.index("ChunkEvent")].count("CallEvent") - 1
    monkeypatch.setattr(run, "PacedCallback", Interrupted)
    with pytest.raises(management.InterruptProcessingException):
        board.more(board.begin(), 5, autosave="kept")
    assert len(files.load(board.mc.cached(), "kept.safetensors").finished) == 1


def test_a_run_that_starts_over_keeps_what_was_saved_further_on(board: Board, files: Files, caplog: Any):
    take = board.more(board.begin(), 5, autosave="kept")
    far = len(take.finished)
    board.more(take, 1, autosave="kept")
    assert [file.name for file in files.folder.iterdir()] == ["kept.safetensors"], "one that goes on replaces it"
    board.more(board.begin(), 2, autosave="kept")
    (other,) = set(files.folder.iterdir()) - {files.folder / "kept.safetensors"}
    assert (
        f"kept.safetensors held {far + 1} finished chunks of an earlier run; they are kept as {other.name}"
        in caplog.text
    )
    assert len(files.load(board.mc.cached(), other.name).finished) == far + 1
    assert files.load(board.mc.cached(), "kept.safetensors").chunks == 2


def test_a_take_that_was_being_finished_can_only_be_finished(board: Board, files: Files, monkeypatch: Any):
    take = board.more(board.begin(), 3)
    straight = board.finish(take)[0]
    kept = []
    host = board.mc.module("nodes.takes")
    monkeypatch.setattr(host, "save_take", lambda path, take: kept.append(take))
    board.nodes.MotionCacheFinishVideo.execute(take, "kept", True)
    assert len(kept[-1].finished) == 3 and len(kept[0].finished) < 3
    assert torch.equal(board.finish(kept[0])[0], straight)
    with pytest.raises(ValueError, match="it can only be finished"):
        board.more(kept[0], 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[: len(raw) // 2], "truncated"),
        (lambda raw: (2**32).to_bytes(8, "little") + raw[8:], "claims a header of 4294967296 bytes"),
        (lambda raw: raw[:-100] + bytes([raw[-100] ^ 1]) + raw[-99:], "checksum does not fit"),
        (lambda raw: raw.replace(b'"version":"3"', b'"version":"7"'), "has version '7'"),
        (
            lambda raw: raw.replace(b'"format":"motioncache_take"', b'"format":"motioncache_cake"'),
            "is no motioncache_take",
        ),
    ],
)
def test_damaged_files_are_refused(board: Board, files: Files, change: Any, message: str):
    path = files.save(board.more(board.begin(), 1))
    raw = path.read_bytes()
    assert change(raw) != raw
    path.write_bytes(change(raw))
    with pytest.raises(ValueError, match=message):
        files.load(board.mc.load())


def test_a_file_that_lies_is_refused(board: Board, files: Files):
    """Right checksum, wrong contents."""
    store = board.mc.module("motioncache_core.tensor_store")
    host = board.mc.module("nodes.host.take_files")
    path = files.save(board.more(board.begin(), 1))
    facts = store.read_facts(path, host.KIND, host.VERSION)
    value = store.read(path, host.KIND, host.VERSION, host.CLASSES["skyreels_v2"])
    for changes in (
        {"stretches": []},
        {"finished": (torch.zeros(1, 16, 3, 9, 9),)},
        {"settings": None},
        {"settings": replace(value["settings"], keep="float9")},
        {"settings": replace(value["settings"], kv_precision="float9")},
        {"report": {}},
        {"report": value["report"] | {"calls": torch.zeros(3, dtype=torch.uint8)}},
        {"trace": value["trace"] | {"weights": torch.zeros(7, dtype=torch.float16)}},
        {"trace": value["trace"] | {"computed": torch.zeros(0, dtype=torch.uint8)}},
        {"parked": replace(value["parked"], pages={0: {}})},
    ):
        store.write(path, host.KIND, host.VERSION, facts, value | changes, host.CLASSES["skyreels_v2"])
        with pytest.raises(ValueError, match=r"the file|does not hold a take"):
            files.load(board.mc.load())
    for family in (["skyreels_v2"], "unknown", None):
        model = facts["model"] | {"family": family}
        store.write(path, host.KIND, host.VERSION, facts | {"model": model}, value, host.CLASSES["skyreels_v2"])
        with pytest.raises(ValueError, match=r"is damaged|was made with no model of this pack"):
            files.load(board.mc.load())


def test_prompts_with_hooks_cannot_be_saved(board: Board, files: Files):
    take = board.more(board.begin(), 1)
    odd = [[take.stretches[0].positive[0][0], {"something": object()}]]
    stretch = take.stretches[0]
    changed = type(take)(take.settings, take.model, None, (type(stretch)(**{**vars(stretch), "positive": odd}),))
    with pytest.raises(ValueError, match="the take cannot be saved: a object"):
        files.save(changed, "odd")
    assert not (files.folder / "odd.safetensors").exists()


def test_names_that_lead_out_of_the_folder_are_refused(files: Files):
    node = files.nodes.MotionCacheSaveTake
    assert "leads out of" in node.validate_inputs("../x")
    assert "leads out of" in files.mc.module("nodes.storyboard").MotionCacheFinishVideo.validate_inputs("../x")
    assert files.nodes.MotionCacheLoadTake.validate_inputs("nothing.safetensors") is not True


def test_a_saved_take_is_plain_safetensors(board: Board, files: Files):
    path = files.save(board.more(board.begin(), 1))
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "motioncache_take"
    tensors = load_file(path)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is no motioncache_take"):
        files.load(board.mc.load())


def test_prompts_that_share_a_tensor_keep_their_own_options(board: Board, files: Files):
    cond = board.mc.positive[0][0]
    early, late = [[cond, {"end_percent": 0.5}]], [[cond, {"start_percent": 0.5}]]
    files.save(board.more(board.more(board.begin(), 1, positive=early), 1, positive=late))
    loaded = files.load(board.mc.cached())
    assert [list(stretch.positive[0][1]) for stretch in loaded.stretches] == [["end_percent"], ["start_percent"]]


@contextlib.contextmanager
def full_disk(free: int) -> Iterator[None]:
    """The system lets this process write no file of more bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_does_not_end_the_run(board: Board, files: Files, caplog: Any):
    before = files.save(board.more(board.begin(), 1), "kept").read_bytes()
    with full_disk(2000):
        take = board.more(board.begin(), 5, autosave="kept")
    assert take.finished and "autosave could not write kept.safetensors" in caplog.text
    assert (files.folder / "kept.safetensors").read_bytes() == before, "the old file is still there"
    assert [file.name for file in files.folder.iterdir()] == ["kept.safetensors"]


def test_autosave_writes_at_the_end_of_every_part(board: Board, files: Files):
    """With so many chunks in flight that none is clean yet."""
    take = board.more(board.begin(), 1, autosave="kept")
    assert not take.finished
    loaded = files.load(board.mc.cached(), "kept.safetensors")
    assert loaded.chunks == 1 and loaded.parked.next_call == take.parked.next_call and not loaded.parked.pages
    board.more(take, 1, autosave="kept", autosave_memory=True)
    loaded = files.load(board.mc.cached(), "kept.safetensors")
    straight = board.finish(board.more(board.more(board.begin(), 2), 1))[0]
    assert torch.equal(board.finish(board.more(loaded, 1))[0], straight)


def test_the_file_that_a_take_comes_from_is_not_overwritten_by_its_autosave(board: Board, files: Files):
    files.save(board.more(board.begin(), 1))
    loaded = files.load(board.mc.cached())
    with pytest.raises(ValueError, match=r"autosave is 'a', the file that this take was loaded from.*nearest: 'a_\d+'"):
        board.more(board.more(loaded, 1), 1, autosave="a")
    with pytest.raises(ValueError, match="autosave is 'a'"):
        board.nodes.MotionCacheFinishVideo.execute(loaded, "a")
    board.more(loaded, 1, autosave="b")


def test_a_loaded_file_is_let_go(board: Board, files: Files):
    path = files.save(board.more(board.begin(), 1))
    take = files.load(board.mc.cached())
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the system does not tell which files are mapped")
    assert take.parked is not None and str(path) not in maps.read_text()


def test_a_long_takes_file_has_a_small_header(board: Board, files: Files):
    """What is said of calls and decisions lies in tensors; a header has a limit."""
    headers = []
    for chunks in (2, 12):
        path = files.save(board.more(board.begin(), chunks))
        headers.append(int.from_bytes(path.read_bytes()[:8], "little"))
    assert headers[1] - headers[0] < 10 * 2500
    loaded, take = files.load(board.mc.cached()), board.more(board.begin(), 12)
    assert loaded.report.to_json() | {"calls": [], "summary": {}, "seconds_by_chunk": {}} == take.report.to_json() | {
        "calls": [],
        "summary": {},
        "seconds_by_chunk": {},
    }
    assert torch.equal(loaded.trace.share_computed(), take.trace.share_computed())
    assert torch.equal(loaded.trace.motion(), take.trace.motion())


def test_a_prompt_that_cannot_be_saved_is_refused_before_sampling(board: Board, files: Files, loads: list[Any]):
    odd = [[board.mc.positive[0][0], {"hooks": object()}]]
    with pytest.raises(ValueError, match="autosave: positive holds 'hooks', which cannot be saved"):
        board.more(board.begin(), 1, positive=odd, autosave="kept")
    assert loads == []


@pytest.mark.parametrize("changes", [{"chunks": 10**6}, {"steps": 10**9}])
def test_a_file_that_claims_too_much_is_refused_at_once(board: Board, files: Files, changes: dict[str, int]):
    store, host = board.mc.module("motioncache_core.tensor_store"), board.mc.module("nodes.host.take_files")
    path = files.save(board.more(board.begin(), 1))
    facts = store.read_facts(path, host.KIND, host.VERSION)
    value = store.read(path, host.KIND, host.VERSION, host.CLASSES["skyreels_v2"])
    stretch = value["stretches"][0]
    object.__setattr__(stretch, "chunks", changes.get("chunks", stretch.chunks))
    planned = value["settings"].growth.settings
    object.__setattr__(planned, "steps", changes.get("steps", planned.steps))
    store.write(path, host.KIND, host.VERSION, facts, value, host.CLASSES["skyreels_v2"])
    with pytest.raises(ValueError, match="the file claims"):
        files.load(board.mc.load())


def test_a_take_is_not_saved_over_the_file_that_it_was_loaded_from(files: Files, board: Board, mc: Any):
    model = mc.cached()
    files.save(board.more(board.begin(model), 1))
    before = (files.folder / "a.safetensors").read_bytes()
    longer = board.more(files.load(model), 1)
    said = files.nodes.MotionCacheSaveTake.execute(longer, "a", True, True).ui.as_dict()["text"][0]
    assert (files.folder / "a.safetensors").read_bytes() == before
    (other,) = set(files.folder.glob("*.safetensors")) - {files.folder / "a.safetensors"}
    assert other.name in said and "a.safetensors is the file that this take was loaded from" in said
    assert files.load(model, other.name).chunks == 2


def test_prompts_with_lists_of_tensors_are_written(files: Files, board: Board, mc: Any):
    """Lists are compared as one value or not at all: a list of tensors has no truth."""
    model = mc.cached()
    text = mc.positive[0][0]
    lists = [
        [[text, {"reference_latents": [torch.zeros(1, 16, 1, 4, 4), torch.ones(1, 16, 1, 4, 4)]}]] for _ in range(2)
    ]
    take = board.more(board.more(board.begin(model), 1, lists[0]), 1, lists[1])
    files.save(take)
    loaded = files.load(model)
    assert all(
        torch.equal(s.positive[0][1]["reference_latents"][1], torch.ones(1, 16, 1, 4, 4)) for s in loaded.stretches
    )
