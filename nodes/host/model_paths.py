"""Where models, saved prompts and takes lie: the pack's own folders, and model folders among ComfyUI's model files.

Importing this module registers the folders with ComfyUI.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import folder_paths

from ...motioncache_core.weight_files import (
    SUBFOLDER,
    is_repository,
    is_repository_file,
    is_weight_file,
    shard_stem,
)

PACK = Path(__file__).resolve().parents[2]
DIFFUSION_MODELS = "diffusion_models"
PROMPTS = "motioncache_prompts"
TAKES = "motioncache_takes"
FOLDER_MARK = "/ (folder)"


def _register() -> None:
    for kind in (DIFFUSION_MODELS, "vae"):
        folder_paths.add_model_folder_path(kind, str(PACK / "tiny_world" / kind))
    folder_paths.add_model_folder_path(PROMPTS, str(Path(folder_paths.models_dir) / PROMPTS), is_default=True)
    folder_paths.add_model_folder_path(PROMPTS, str(PACK / "tiny_world" / "prompts"))
    folder_paths.add_model_folder_path(TAKES, str(Path(folder_paths.get_output_directory()) / TAKES), is_default=True)
    for kind in (PROMPTS, TAKES):
        places, _ = folder_paths.folder_names_and_paths[kind]
        folder_paths.folder_names_and_paths[kind] = (places, {".safetensors"})


_register()


class UnknownFileError(ValueError):
    """A name chosen in a node is not among the files; the message lists near names and the folders searched."""


def prompt_folder() -> Path:
    """The folder that prompts are saved to (it may not exist yet)."""
    return Path(folder_paths.get_folder_paths(PROMPTS)[0])


def model_choices() -> list[str]:
    """What the loader offers: safetensors files, and repository folders as ``NAME/ (folder)``.

    Opens no file: ComfyUI's (cached) file list, and a listing of those folders whose files are named like a
    repository's.
    """
    files = [PurePath(name) for name in folder_paths.get_filename_list(DIFFUSION_MODELS) if is_weight_file(name)]
    roots = [Path(root) for root in folder_paths.get_folder_paths(DIFFUSION_MODELS)]
    folders: set[PurePath] = set()
    for parent in {file.parent for file in files if is_repository_file(file.name)}:
        candidate = parent.parent if parent.name == SUBFOLDER else parent
        if candidate.parts and any(is_repository(root / candidate) for root in roots):
            folders.add(candidate)
    # beneath a diffusers repository everything else (text encoder, VAE) is part of that one entry
    parents = {file.parent for file in files}
    whole = {folder for folder in folders if folder / SUBFOLDER in parents}
    folders = {folder for folder in folders if whole.isdisjoint(folder.parents)}
    choices = [folder.as_posix() + FOLDER_MARK for folder in folders]
    for file in files:
        inside = file.parent in folders and is_repository_file(file.name)
        if inside or not whole.isdisjoint(file.parents) or _is_later_shard(file.name):
            continue
        choices.append(str(file))
    return sorted(choices)


def _is_later_shard(name: str) -> bool:
    """A sharded set outside a repository is offered once, by its first file."""
    stem = shard_stem(name)
    return stem is not None and not name.startswith(f"{stem}-00001-of-")


def resolve_model(choice: str) -> Path:
    """The file or folder that a choice stands for.

    Raises:
        UnknownFileError: there is no such file or folder.
    """
    folder = PurePath(choice.removesuffix(FOLDER_MARK))
    if not folder.is_absolute() and ".." not in folder.parts and folder.parts:
        for root in folder_paths.get_folder_paths(DIFFUSION_MODELS):
            if (Path(root) / folder).is_dir():
                return Path(root) / folder
    return _resolve_file(DIFFUSION_MODELS, "model_name", choice, model_choices())


def prompt_choices() -> list[str]:
    """Names of the saved prompts."""
    return folder_paths.get_filename_list(PROMPTS)


def resolve_prompt(choice: str) -> Path:
    """The file that a choice stands for.

    Raises:
        UnknownFileError: there is no such file.
    """
    return _resolve_file(PROMPTS, "prompt_name", choice, prompt_choices())


def take_folder() -> Path:
    """The folder that takes are saved to (it may not exist yet)."""
    return Path(folder_paths.get_folder_paths(TAKES)[0])


def take_choices() -> list[str]:
    """Names of the saved takes."""
    return folder_paths.get_filename_list(TAKES)


def resolve_take(choice: str) -> Path:
    """The file that a choice stands for.

    Raises:
        UnknownFileError: there is no such file.
    """
    return _resolve_file(TAKES, "take_name", choice, take_choices())


def _resolve_file(kind: str, field: str, choice: str, choices: list[str]) -> Path:
    found = folder_paths.get_full_path(kind, choice)
    if found is not None:
        return Path(found)
    near = difflib.get_close_matches(choice, choices, n=3, cutoff=0.3)
    nearest = f"Nearest: {', '.join(near)}." if near else "There are none." if not choices else "None has a near name."
    raise UnknownFileError(
        f"{field} {choice!r} was not found. {nearest} Searched: {', '.join(folder_paths.get_folder_paths(kind))}"
    )


def fingerprint_of(name: str | None, resolve: Callable[[str], Path]) -> Any:
    """That of a chosen file, so that it is loaded again when it has been replaced.

    Args:
        name: ``None``: comes from another node, as ComfyUI has it then; it compares that node's output instead.
    """
    return None if name is None else fingerprint(resolve(name))


def fingerprint(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of the file, or of the files in a folder and its transformer folder."""
    files = [path] if path.is_file() else [*path.glob("*"), *path.glob(f"{SUBFOLDER}/*")]
    stats = ((file.name, file.stat()) for file in sorted(files) if file.is_file())
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
