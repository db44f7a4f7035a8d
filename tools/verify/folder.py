"""A folder of golden cases: `cases.json`, and its references resolved to arrays and JSON values (perhaps gzipped).

References: `ROLE:NAME` array of the file `files[ROLE]`; `ROLE:NAME*` a series, keyed by what the star stands for;
`ROLE:/a/0` JSON pointer into a JSON file; `ROLE@/a/0` the same into the JSON text under the metadata key `settings` of
a safetensors file; `ROLE:` the file itself.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

ARRAY_SUFFIXES = (".safetensors", ".npz")
JSON_SUFFIXES = (".json", ".json.gz")
_REFERENCE = re.compile(r"(?P<role>[^:@]+)(?P<mark>[:@])(?P<name>.*)")
_CASE_FIELDS = {
    "id": str,
    "kind": str,
    "files": dict,
    "inputs": dict,
    "outputs": dict,
    "settings": dict,
    "quirks": list,
    "dtype": str,
    "tolerance": dict,
    "needs": list,
}

Value = Any
"""A Tensor, a series ``{key: Tensor}``, a JSON value, or the path of a file."""


class CaseError(ValueError):
    """A folder or a case is not of the documented form; the message says where."""


class Folder:
    """A family folder.

    Raises:
        CaseError: `cases.json` is not readable as such.
    """

    def __init__(self, path: Path):
        self.path = path
        self._arrays: dict[str, _ArrayFile] = {}
        self._json: dict[str, Any] = {}
        listing = self.json("cases.json")
        if not isinstance(listing, dict) or listing.get("schema") != 1 or not isinstance(listing.get("cases"), list):
            raise CaseError(f"{path / 'cases.json'}: not a case list of schema 1")
        self.family = str(listing.get("family"))
        self.unused: list[dict[str, str]] = listing.get("unused", [])
        self.quirks: frozenset[str] = frozenset(listing.get("quirks", {}))
        """Every quirk that a case of the family may name."""
        self.cases = [Case(self, record) for record in listing["cases"]]

    def json(self, name: str) -> Any:
        """Content of a JSON file of the folder."""
        if name not in self._json:
            try:
                content = self.existing(name).read_bytes()
                self._json[name] = json.loads(gzip.decompress(content) if name.endswith(".gz") else content)
            except (ValueError, OSError, EOFError) as error:
                raise CaseError(f"{name} is not JSON: {error}") from None
        return self._json[name]

    def arrays(self, name: str) -> _ArrayFile:
        """An array file of the folder."""
        if name not in self._arrays:
            self._arrays[name] = _ArrayFile(self.existing(name))
        return self._arrays[name]

    def array_files(self) -> list[str]:
        """Relative paths of all array files below the folder, named by a case or not."""
        found = (p for p in self.path.rglob("*") if p.suffix in ARRAY_SUFFIXES)
        return sorted(p.relative_to(self.path).as_posix() for p in found)

    def case(self, case_id: str) -> Case:
        for case in self.cases:
            if case.id == case_id:
                return case
        raise CaseError(f"there is no case {case_id!r}")

    def existing(self, name: str) -> Path:
        """Path of a file of the folder."""
        path = self.path / name
        if not path.is_file():
            raise CaseError(f"there is no file {name}")
        return path


class _ArrayFile:
    """Names, arrays and metadata of a safetensors or npz file."""

    def __init__(self, path: Path):
        if path.suffix not in ARRAY_SUFFIXES:
            raise CaseError(f"{path.name} holds no arrays; those files end in {' or '.join(ARRAY_SUFFIXES)}")
        self.name = path.name
        self._npz = np.load(path, allow_pickle=False) if path.suffix == ".npz" else None
        self._safe = safe_open(path, framework="pt") if self._npz is None else None
        self.names = set(self._safe.keys() if self._npz is None else self._npz.files)

    def load(self, name: str) -> Tensor:
        return self._safe.get_tensor(name) if self._npz is None else torch.from_numpy(self._npz[name])

    def matching(self, pattern: str) -> dict[str, str]:
        """``{what the stars stand for: array name}`` of a pattern with stars."""
        form = re.compile("(.+)".join(map(re.escape, pattern.split("*"))))
        matches = {name: form.fullmatch(name) for name in sorted(self.names)}
        return {"*".join(m.groups()): name for name, m in matches.items() if m}

    def settings(self) -> Any:
        """The JSON text under the metadata key `settings`."""
        text = (self._safe.metadata() or {}).get("settings") if self._safe else None
        if text is None:
            raise CaseError(f"{self.name} has no metadata 'settings'")
        return json.loads(text)


@dataclass(frozen=True)
class Reference:
    """A reference of a case, with the case whose files it means."""

    case: Case
    text: str

    @cached_property
    def _parts(self) -> tuple[str, str, str]:
        match = _REFERENCE.fullmatch(self.text)
        if match is None or match["mark"] == "@" and not match["name"]:
            raise CaseError(f"reference {self.text!r} is not ROLE:NAME, ROLE: or ROLE@/POINTER")
        return self.case.file(match["role"]), match["mark"], match["name"]

    def names(self) -> dict[str, str]:
        """Arrays it means: ``{key: array name}``, with key '' for a single one; empty for a JSON value or a file.

        Raises:
            CaseError: it does not resolve.
        """
        file, mark, name = self._parts
        if mark == "@" or not name or file.endswith(JSON_SUFFIXES):
            self.load()
            return {}
        arrays = self.case.folder.arrays(file)
        found = arrays.matching(name) if "*" in name else {"": name} if name in arrays.names else {}
        if not found:
            raise CaseError(f"reference {self.text!r}: {file} has no such array")
        return found

    def load(self) -> Value:
        file, mark, name = self._parts
        folder = self.case.folder
        if mark == "@":
            return _pointed(folder.arrays(file).settings(), name, self.text)
        if not name:
            return folder.existing(file)
        if file.endswith(JSON_SUFFIXES):
            return _pointed(folder.json(file), name, self.text)
        found = {key: folder.arrays(file).load(array) for key, array in self.names().items()}
        return found if "*" in name else found[""]

    def claims(self) -> tuple[str, set[str]]:
        """(file, arrays of it that this reference accounts for)."""
        return self._parts[0], set(self.names().values())


def _pointed(value: Any, pointer: str, text: str) -> Any:
    for step in (part for part in pointer.split("/") if part):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise CaseError(f"reference {text!r} does not resolve at {step!r}") from None
    return value


class Settings(dict[str, Any]):
    """Settings of a case that note which of them are read, those of the dictionaries within them too."""

    def __init__(self, given: Mapping[str, Any]):
        super().__init__({name: _noting(value) for name, value in given.items()})
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default

    def read_all(self, name: str) -> None:
        """Note that a setting was read with everything within it."""
        value = self.get(name)
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Settings):
                for within in inner:
                    inner.read_all(within)

    def unread(self) -> set[str]:
        """Names that nobody asked for, as ``name`` or ``name.name within it``."""
        found: set[str] = set()
        for name, value in self.items():
            if name not in self._read:
                found.add(name)
                continue
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, Settings):
                    found |= {f"{name}.{within}" for within in inner.unread()}
        return found


def _noting(value: Any) -> Any:
    if isinstance(value, dict):
        return Settings(value)
    return [_noting(entry) for entry in value] if isinstance(value, list) else value


class Case:
    """One entry of `cases.json`.

    Handlers read inputs, index arrays, weights and settings; outputs are for the comparison.
    """

    def __init__(self, folder: Folder, record: Mapping[str, Any]):
        self.folder = folder
        self.record = record if isinstance(record, dict) else {}
        self.id = str(self.record.get("id", "(no id)"))
        self.kind = str(self.record.get("kind", "(no kind)"))
        settings = self.record.get("settings")
        self.settings = Settings(settings if isinstance(settings, dict) else {})
        self.config: dict[str, Any] = self.record.get("config", {})
        quirks = self.record.get("quirks")
        self.quirks = frozenset(map(str, quirks)) if isinstance(quirks, list) else frozenset()
        self.tolerance: dict[str, dict[str, Any]] = self.record.get("tolerance", {})
        self.compare: str = self.record.get("compare", "")
        self.notes: list[str] = []
        """What it tells that was not used, or is not what was computed."""

    def check_form(self) -> None:
        """Raises CaseError unless every field is there and every reference resolves."""
        for name, kind in _CASE_FIELDS.items():
            if not isinstance(self.record.get(name), kind):
                raise CaseError(f"field {name!r} is missing or not a {kind.__name__}")
        if not self.outputs:
            raise CaseError("it names no outputs")
        for role in self.record["files"]:
            self.folder.existing(self.file(role))
        self.claims()

    def file(self, role: str) -> str:
        files = self.record.get("files", {})
        if role not in files:
            raise CaseError(f"there is no file role {role!r}; the roles are {', '.join(files) or 'none'}")
        return files[role]

    @cached_property
    def inputs(self) -> dict[str, Reference]:
        """Own inputs, and those of `inputs_from` for what is missing."""
        own = {name: Reference(self, text) for name, text in self.record.get("inputs", {}).items()}
        source = self.record.get("inputs_from")
        if source is None:
            return own
        if source == self.id:
            raise CaseError("inputs_from names the case itself")
        return {**self.folder.case(source).inputs, **own}

    @cached_property
    def outputs(self) -> dict[str, Reference]:
        return {name: Reference(self, text) for name, text in self.record.get("outputs", {}).items()}

    @cached_property
    def indices(self) -> dict[str, Reference]:
        return {name: Reference(self, text) for name, text in self.record.get("index", {}).items()}

    def input(self, name: str) -> Value:
        """An input, loaded. Raises CaseError if the case has none of that name."""
        if name not in self.inputs:
            raise CaseError(f"there is no input {name!r}; the inputs are {', '.join(self.inputs) or 'none'}")
        return self.inputs[name].load()

    def index(self, output: str) -> Tensor:
        """The array that says what the entries of an output belong to."""
        if output not in self.indices:
            raise CaseError(f"output {output!r} has no index")
        return self.indices[output].load()

    def weights(self) -> dict[str, Tensor]:
        """The state dict of the case's model."""
        file, names = self._weight_names()
        prefix = self.record.get("weights_prefix", "")
        return {name.removeprefix(prefix): self.folder.arrays(file).load(name) for name in sorted(names)}

    def expect(self, **facts: Any) -> None:
        """Note where a setting is there and has another value than what is computed; the numbers decide.

        A set names several values.
        """
        for name, value in facts.items():
            self.settings.read_all(name)
            legal = sorted(value, key=str) if isinstance(value, (set, frozenset)) else [value]
            if name in self.settings and self.settings[name] not in legal:
                told = " or ".join(map(repr, legal))
                self.notes.append(f"setting {name} is {self.settings[name]!r}, computed was {told}")

    def claims(self) -> list[tuple[str, set[str]]]:
        """(file, arrays) that this case accounts for. Raises CaseError if a reference does not resolve."""
        groups = (self.inputs, self.outputs, self.indices)
        found = [reference.claims() for group in groups for reference in group.values()]
        if "weights" in self.record:
            found.append(self._weight_names())
        return found

    def _weight_names(self) -> tuple[str, set[str]]:
        file = self.record.get("weights")
        if file is None:
            raise CaseError("it names no weights")
        excluded = tuple(self.record.get("weights_exclude", ()))
        prefix = self.record.get("weights_prefix", "")
        names = self.folder.arrays(file).names
        return file, {name for name in names if name.startswith(prefix) and not name.startswith(excluded)}
