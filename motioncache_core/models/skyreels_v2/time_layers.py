"""A checkpoint's time layers alone: what the distance of the time embedding is measured on, without the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .architecture import FPS_KEYS
from .checkpoint import dequantise, fps_delta
from .layout import FREQ_DIM, Layout
from .levels import Levels, frame_rate_index

TIME_KEYS = tuple(
    f"{layer}.{part}"
    for layer in ("time_embedding.0", "time_embedding.2", "time_projection.1")
    for part in ("weight", "bias")
)


@dataclass(frozen=True)
class TimeLayers:
    """Time and frame-rate layers in float32, under official names."""

    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, layout: Layout) -> TimeLayers:
        """Read them, and nothing else, from a checkpoint that ``read_layout`` has judged."""
        read, scales = {}, {}
        for key in (*TIME_KEYS, *FPS_KEYS):
            if key not in layout.tensors:
                continue
            layer = key.removesuffix(".weight")
            if key.endswith(".weight") and layer in layout.weight_scales:
                scales[layer] = _get(layout.weight_scales[layer]).reshape(()).float()
            read[key] = dequantise(key, _get(layout.tensors[key]), scales)
        return cls(read)

    def projections(self, timesteps: Sequence[int], fps: float) -> Tensor:
        """``[len(timesteps), 6, C]`` float32 modulation of each timestep, as the blocks take it."""
        network = SimpleNamespace(
            freq_dim=FREQ_DIM,
            time_embedding=nn.Sequential(self._linear("time_embedding.0"), nn.SiLU(), self._linear("time_embedding.2")),
            time_projection=nn.Sequential(nn.SiLU(), self._linear("time_projection.1")),
        )
        terms = fps_delta({key: tensor for key, tensor in self.tensors.items() if key in FPS_KEYS})
        rates = [[frame_rate_index(fps)] * len(timesteps)]
        with torch.no_grad():
            levels = Levels(network, [timesteps], rates, terms, torch.zeros(1))
            return levels.projected[levels.index[0]]

    def _linear(self, name: str) -> nn.Module:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        linear.weight, linear.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        return linear


def _get(stored) -> Tensor:  # noqa: ANN001 - StoredTensor
    with safe_open(stored.file, framework="pt", device="cpu") as handle:
        return handle.get_tensor(stored.key)
