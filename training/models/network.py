"""The network: TabM (arXiv 2410.24210) with everything from the raw matrix to the answer inside it, ready to export."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rtdl_num_embeddings import PiecewiseLinearEmbeddings
from safetensors.torch import load_file, save_file
from tabm import EnsembleView, LinearEnsemble, make_tabm_backbone
from torch import Tensor, nn

from training.models.base import Floats

MODEL_FILE, META_FILE = "model.safetensors", "model.json"
MEMBERS = 8  # perceptrons that share weights
PREDICT_ROWS = 8192


@dataclass(frozen=True)
class Shape:
    """What the network's layers are made from; kept as JSON beside the weights."""

    quantities: int
    sizes: tuple[int, ...]
    flagged: tuple[int, ...]  # quantities that may be missing, which the network is told
    outputs: int
    regression: bool
    blocks: int
    width: int
    dropout: float
    embedding: int


class Network(nn.Module):  # type: ignore[misc]
    """(rows, width) float32 matrix with NaN -> (rows, outputs) probabilities or prediction; all of it can be exported.

    Missing quantities become the median and raise a flag, extremes are held at the range that training saw, categories
    are embedded with a row of their own for what is missing or new.
    """

    def __init__(self, shape: Shape, bins: list[Tensor]) -> None:
        super().__init__()
        self.shape, self.bins = shape, bins
        count = shape.quantities
        for name, value in (("median", 0.0), ("low", 0.0), ("high", 0.0), ("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((count,), value))
        self.register_buffer("centre", torch.zeros(1))
        self.register_buffer("spread", torch.ones(1))
        self.register_buffer("flagged", torch.tensor(shape.flagged, dtype=torch.long))
        self.numbers = (
            PiecewiseLinearEmbeddings(bins, shape.embedding, activation=False, version="B") if count else None
        )
        widths = [min(16, 2 + round(size**0.5)) for size in shape.sizes]
        self.categories = nn.ModuleList(
            nn.Embedding(size + 1, width) for size, width in zip(shape.sizes, widths, strict=True)
        )
        chunks = [shape.embedding] * count + [1] * len(shape.flagged) + widths
        self.ensemble = EnsembleView(k=MEMBERS)
        self.backbone = make_tabm_backbone(
            d_in=sum(chunks),
            n_blocks=shape.blocks,
            d_block=shape.width,
            dropout=shape.dropout,
            activation="ReLU",
            k=MEMBERS,
            arch_type="tabm",
            start_scaling_init="normal",
            start_scaling_init_chunks=chunks,
        )
        self.output = LinearEnsemble(shape.width, shape.outputs, k=MEMBERS)

    def members(self, x: Tensor) -> Tensor:
        """(rows, width) -> (rows, members, outputs): logits, or standardised predictions."""
        parts: list[Tensor] = []
        if self.numbers is not None:
            raw = x[:, : self.shape.quantities]
            missing = torch.isnan(raw)
            held = torch.minimum(torch.maximum(torch.where(missing, self.median, raw), self.low), self.high)
            parts.append(self.numbers((held - self.mean) / self.std).flatten(1))
            if self.shape.flagged:
                parts.append(missing.to(x.dtype).index_select(1, self.flagged))
        for at, embedding in enumerate(self.categories):
            code = x[:, self.shape.quantities + at]
            size = self.shape.sizes[at]
            known = torch.where(torch.isnan(code), float(size), code)
            parts.append(embedding(known.to(torch.long)))
        joined: Tensor = self.output(self.backbone(self.ensemble(torch.cat(parts, dim=1))))
        return joined

    def forward(self, x: Tensor) -> Tensor:
        """The members' mean answer."""
        answer = self.members(x)
        if self.shape.regression:
            return answer.mean(dim=1) * self.spread + self.centre
        return torch.softmax(answer, dim=-1).mean(dim=1)


@dataclass(frozen=True)
class Neural:
    """A fitted network."""

    module: Network

    def predict(self, matrix: Floats) -> Floats:
        """(rows, width) -> (rows, classes) probabilities or (rows, 1) prediction, float32."""
        device = next(self.module.parameters()).device
        with torch.inference_mode():
            parts = [
                self.module(torch.from_numpy(matrix[at : at + PREDICT_ROWS]).to(device)).float().cpu().numpy()
                for at in range(0, len(matrix), PREDICT_ROWS)
            ]
        return np.concatenate(parts) if parts else np.empty((0, self.module.shape.outputs), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """safetensors and a small JSON."""
        state = {name: value.contiguous() for name, value in self.module.state_dict().items()}
        save_file(state, str(folder / MODEL_FILE))
        (folder / META_FILE).write_text(json.dumps(vars(self.module.shape) | {"bins": _bins(self.module)}), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Neural:
        """The model that `save` wrote, on the CPU."""
        meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        bins = [torch.tensor(edges, dtype=torch.float32) for edges in meta.pop("bins")]
        shape = Shape(**meta | {"sizes": tuple(meta["sizes"]), "flagged": tuple(meta["flagged"])})
        module = Network(shape, bins)
        module.load_state_dict(load_file(str(folder / MODEL_FILE)))
        return cls(module.eval())


def _bins(module: Network) -> list[list[float]]:
    return [] if module.numbers is None else [edges.tolist() for edges in module.bins]
