"""The families that can be checked: name in `cases.json` -> its kinds."""

from __future__ import annotations

from collections.abc import Mapping

from . import magi1, skyreels_v2
from .check import Kind

FAMILIES: Mapping[str, Mapping[str, Kind]] = {"skyreels_v2": skyreels_v2.KINDS, "magi1": magi1.KINDS}
