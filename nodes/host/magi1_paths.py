"""Where MAGI-1's VAE and its special tokens lie among ComfyUI's model files.

Importing this module registers the folder models/magi1 with ComfyUI.
"""

from __future__ import annotations

import difflib
from pathlib import Path, PurePath

import folder_paths

from ...motioncache_core.models.magi1.text import FILE_NAMES
from ...motioncache_core.weight_files import is_repository, is_repository_file, is_weight_file
from .model_paths import FOLDER_MARK, UnknownFileError

VAE = "vae"
MAGI1 = "magi1"
TOKEN_FOLDERS = (MAGI1, "text_encoders")
"""Kinds of folders that special tokens are looked for in."""


def _register() -> None:
    folder_paths.add_model_folder_path(MAGI1, str(Path(folder_paths.models_dir) / MAGI1), is_default=True)
    places, _ = folder_paths.folder_names_and_paths[MAGI1]
    folder_paths.folder_names_and_paths[MAGI1] = (places, {".npz", ".safetensors"})


_register()


def vae_choices() -> list[str]:
    """What the VAE loader offers: safetensors files of models/vae, and model folders as ``NAME/ (folder)``."""
    files = [PurePath(name) for name in folder_paths.get_filename_list(VAE) if is_weight_file(name)]
    roots = [Path(root) for root in folder_paths.get_folder_paths(VAE)]
    candidates = {file.parent for file in files if file.parent.parts and is_repository_file(file.name)}
    folders = {folder for folder in candidates if any(is_repository(root / folder) for root in roots)}
    inside = [file for file in files if file.parent in folders and is_repository_file(file.name)]
    choices = [folder.as_posix() + FOLDER_MARK for folder in folders]
    return sorted([*choices, *(str(file) for file in files if file not in inside)])


def resolve_vae(choice: str) -> Path:
    """The file or folder that a choice stands for.

    Raises:
        UnknownFileError: there is no such file or folder.
    """
    folder = PurePath(choice.removesuffix(FOLDER_MARK))
    if folder.parts and not folder.is_absolute() and ".." not in folder.parts:
        for root in folder_paths.get_folder_paths(VAE):
            if (Path(root) / folder).is_dir():
                return Path(root) / folder
    found = folder_paths.get_full_path(VAE, choice)
    if found is not None:
        return Path(found)
    choices = vae_choices()
    near = difflib.get_close_matches(choice, choices, n=3, cutoff=0.3)
    nearest = f"Nearest: {', '.join(near)}." if near else "None has a near name." if choices else "There are none."
    searched = ", ".join(folder_paths.get_folder_paths(VAE))
    raise UnknownFileError(f"vae_name {choice!r} was not found. {nearest} Searched: {searched}")


def special_tokens_file() -> Path | None:
    """``special_tokens.npz`` (or the same as safetensors) in models/magi1 or models/text_encoders; None without one."""
    folders = (Path(folder) for kind in TOKEN_FOLDERS for folder in folder_paths.get_folder_paths(kind))
    return next((folder / name for folder in folders for name in FILE_NAMES if (folder / name).is_file()), None)
