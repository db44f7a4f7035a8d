"""Saving takes, and going on with them later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui

from ..motioncache_core.file_names import file_path, name_problem
from .host.latents import InputError
from .host.model_paths import UnknownFileError, fingerprint_of, resolve_take, take_choices, take_folder
from .host.notify import notify
from .host.take_files import StoreError, check_savable, finished_in, load_take, save_take
from .host.take_run import Autosave
from .host.takes import Take
from .host.versions import advanced, search_aliases

VideoTake = io.Custom("MOTIONCACHE_TAKE")

LENGTHENS = "the next Run would load the longer video and lengthen it again"


def autosave_input() -> io.Input:
    """Name of the file that a generating node saves the take to whenever a chunk is finished."""
    return advanced(
        io.String.Input(
            "autosave",
            default="",
            tooltip="Name of a file that the video so far is saved to whenever a chunk is finished, and when the node "
            "ends. After an interrupt or a crash Load take goes on from it. Empty: off.",
        )
    )


def autosave_memory_input() -> io.Input:
    """Whether that file holds keys and values."""
    return advanced(
        io.Boolean.Input(
            "autosave_memory",
            default=False,
            optional=True,
            tooltip="On: autosave is exact, and writes gigabytes for large models each time. Off: latents only; the "
            "memory of earlier chunks is made again on loading, which is not exact.",
        )
    )


def autosave_problem(name: str | None) -> str | None:
    """What is wrong with the name of a file to save a take to; an empty one means none."""
    return name_problem(take_folder(), name or None, "autosave")


def autosave_of(name: str, with_memory: bool, take: Take, node_id: str | None) -> Autosave | None:
    """What saves a take as it grows under a name, over a file that is not further; ``None`` for an empty name.

    A file that cannot be written is told, and the video goes on.

    Raises:
        StoreError: a prompt of the take's newest part cannot be saved.
        InputError: the name is that of the file that the take was loaded from.
    """
    if not name:
        return None
    path = file_path(take_folder(), name, overwrite=True)
    if _is_its_own(take, path):
        raise InputError(
            f"autosave is {name!r}, the file that this take was loaded from: {LENGTHENS}. Choose another name "
            f"(nearest: {_other_path(path).stem!r})"
        )
    check_savable(take)
    first = True

    def save(standing: Take) -> None:
        nonlocal first
        try:
            if first:
                _keep_longer(path, standing, node_id)
            first = False
            save_take(path, standing)
        except (OSError, StoreError) as error:
            notify(node_id, f"autosave could not write {path.name}: {error}. The video goes on without it.")

    return Autosave(save, with_memory)


def _keep_longer(path: Path, take: Take, node_id: str | None) -> None:
    """Give a file another name if a take begins to be saved in its place that is not as far: a run that starts over
    after an interrupt would write its first chunk over all that was made before.
    """
    before = finished_in(path)
    if before > len(take.finished):
        kept = _other_path(path)
        path.rename(kept)
        notify(node_id, f"{path.name} held {before} finished chunks of an earlier run; they are kept as {kept.name}.")


def _is_its_own(take: Take, path: Path) -> bool:
    """Whether a take was loaded from the file: a graph that writes what it loads makes another video at each Run."""
    return take.origin is not None and path.resolve() == take.origin.resolve()


def _other_path(path: Path) -> Path:
    """The first name that is free."""
    return file_path(take_folder(), path.relative_to(take_folder()).with_suffix("").as_posix(), overwrite=False)


class MotionCacheSaveTake(io.ComfyNode):
    """A take -> a file under output/motioncache_takes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheSaveTake",
            display_name="Save take",
            category="MotionCache/storyboard",
            **search_aliases("save state", "storyboard", "continue later"),
            description=(
                "Saves a video in the making to output/motioncache_takes, with the chunks that are in flight. Load "
                "take goes on with it, tomorrow or on another machine."
            ),
            inputs=[
                VideoTake.Input("take", tooltip="The video so far."),
                io.String.Input("filename", default="take", tooltip="Name of the file; a / puts it into a subfolder."),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="On: replace a file of that name. Off: append a number to the name.",
                ),
                io.Boolean.Input(
                    "with_memory",
                    default=True,
                    tooltip="On: exact, gigabytes for large models. Off: latents only; the memory of earlier chunks is "
                    "made again on loading, which is not exact.",
                ),
            ],
            outputs=[VideoTake.Output(display_name="take")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename: str | None) -> bool | str:
        """Refuse a bad name when the graph is queued, before anything is made."""
        return name_problem(take_folder(), filename) or True

    @classmethod
    def execute(cls, take: Take, filename: str, overwrite: bool, with_memory: bool) -> io.NodeOutput:
        path = file_path(take_folder(), filename, overwrite=overwrite)
        reason = ""
        if _is_its_own(take, path):
            path, reason = _other_path(path), f". {path.name} is the file that this take was loaded from: {LENGTHENS}"
        save_take(path, take if with_memory else take.without_memory())
        name = path.relative_to(take_folder()).as_posix()
        said = f"Saved as {name} ({path.stat().st_size / 2**20:.1f} MB){reason}"
        return io.NodeOutput(take, ui=ui.PreviewText(said))


class MotionCacheLoadTake(io.ComfyNode):
    """A file -> the take that was saved."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheLoadTake",
            display_name="Load take",
            category="MotionCache/storyboard",
            **search_aliases("load state", "storyboard", "continue video"),
            description="Loads a video in the making that Save take or autosave wrote; generate on or finish it.",
            inputs=[
                io.Combo.Input("take_name", options=take_choices(), tooltip="A file in output/motioncache_takes."),
                io.Model.Input("model", tooltip="The model that it was made with."),
                io.Vae.Input("vae", optional=True, tooltip="MAGI-1's VAE, for the colours of previews."),
            ],
            outputs=[VideoTake.Output(display_name="take")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, take_name: str | None) -> bool | str:
        """Refuse an unknown name when the graph is queued."""
        try:
            if take_name is not None:
                resolve_take(take_name)
        except UnknownFileError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, take_name: str | None, **others: Any) -> Any:
        """Load again when the file has been replaced."""
        return fingerprint_of(take_name, resolve_take)

    @classmethod
    def execute(cls, take_name: str, model: io.Model.Type, vae: Any = None) -> io.NodeOutput:
        take, notices = load_take(resolve_take(take_name), model, vae)
        if notices:
            notify(cls.hidden.unique_id if cls.hidden is not None else None, "\n".join(notices))
        return io.NodeOutput(take)


NODES = [MotionCacheSaveTake, MotionCacheLoadTake]
