"""All pictures by their names.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from . import cache_knobs, node_outputs, sampler_knobs, storyboard

PICTURES = {**cache_knobs.PICTURES, **sampler_knobs.PICTURES, **node_outputs.PICTURES, **storyboard.PICTURES}
