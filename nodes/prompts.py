"""Saving encoded prompts and loading them without a text encoder."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..motioncache_core.file_names import file_path, name_problem
from ..motioncache_core.prompts import load_prompt, save_prompt
from .host.model_paths import UnknownFileError, fingerprint_of, prompt_choices, prompt_folder, resolve_prompt
from .host.versions import search_aliases


class MotionCacheSavePrompt(io.ComfyNode):
    """CONDITIONING -> a file under models/motioncache_prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheSavePrompt",
            display_name="Save prompt (encoded)",
            category="MotionCache",
            **search_aliases("save conditioning", "store prompt"),
            description=(
                "Saves an encoded prompt to models/motioncache_prompts. 'Load prompt (encoded)' brings it back without "
                "loading the text encoder."
            ),
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The encoded prompt, as it comes from CLIP Text Encode."),
                io.String.Input(
                    "filename", default="prompt", tooltip="Name of the file; a / puts it into a subfolder."
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="On: replace a file of that name. Off: append a number to the name.",
                ),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="The prompt in words, kept in the file as a note.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="CONDITIONING")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename: str | None) -> bool | str:
        """Refuse a bad name when the graph is queued, before the text encoder runs."""
        return name_problem(prompt_folder(), filename) or True

    @classmethod
    def execute(cls, conditioning: list, filename: str, overwrite: bool, text: str = "") -> io.NodeOutput:
        path = file_path(prompt_folder(), filename, overwrite=overwrite)
        save_prompt(path, conditioning, text)
        name = path.relative_to(prompt_folder()).as_posix()
        return io.NodeOutput(conditioning, ui=ui.PreviewText(f"Saved as {name}"))


class MotionCacheLoadPrompt(io.ComfyNode):
    """A saved prompt -> CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheLoadPrompt",
            display_name="Load prompt (encoded)",
            category="MotionCache",
            **search_aliases("load conditioning", "stored prompt"),
            description="Loads a prompt that 'Save prompt (encoded)' wrote; no text encoder is needed.",
            inputs=[
                io.Combo.Input(
                    "prompt_name", options=prompt_choices(), tooltip="A file in models/motioncache_prompts."
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="CONDITIONING"),
                io.String.Output(display_name="text", tooltip="The prompt in words, if it was saved along."),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt_name: str | None) -> bool | str:
        """Refuse an unknown name when the graph is queued."""
        try:
            if prompt_name is not None:
                resolve_prompt(prompt_name)
        except UnknownFileError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, prompt_name: str | None) -> Any:
        """Load again when the file has been replaced."""
        return fingerprint_of(prompt_name, resolve_prompt)

    @classmethod
    def execute(cls, prompt_name: str) -> io.NodeOutput:
        conditioning, text = load_prompt(resolve_prompt(prompt_name))
        return io.NodeOutput(conditioning, text)


NODES = [MotionCacheSavePrompt, MotionCacheLoadPrompt]
