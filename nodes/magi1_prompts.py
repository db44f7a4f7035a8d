"""Prompts that change while a MAGI-1 video goes on."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.magi1_prompts import ChunkPrompt, Schedule, with_prompt

ChunkPrompts = io.Custom("MOTIONCACHE_CHUNK_PROMPTS")


class MotionCacheChunkPrompt(io.ComfyNode):
    """CONDITIONING + the chunk from which it holds -> a schedule of prompts; chained for more."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheChunkPrompt",
            display_name="Prompt for chunks (MAGI-1)",
            category="MotionCache",
            description=(
                "Another prompt from a chunk on, until the next one begins. Chain several, in any order, and connect "
                "the last to chunk_prompts of the MAGI-1 sampler."
            ),
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="What happens from this chunk on (MAGI-1 text encode)."),
                io.Int.Input(
                    "first_chunk",
                    default=2,
                    min=1,
                    max=10000,
                    tooltip="First chunk that follows this prompt. A chunk is one second (24 frames): 1 is the first "
                    "new second, 2 the one after it. A start video's own frames are not counted.",
                ),
                ChunkPrompts.Input("chunk_prompts", optional=True, tooltip="From another Prompt for chunks."),
            ],
            outputs=[ChunkPrompts.Output(display_name="chunk_prompts")],
        )

    @classmethod
    def execute(cls, conditioning: Any, first_chunk: int, chunk_prompts: Schedule | None = None) -> io.NodeOutput:
        return io.NodeOutput(with_prompt(chunk_prompts, ChunkPrompt(first_chunk, conditioning)))


NODES = [MotionCacheChunkPrompt]
