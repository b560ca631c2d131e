"""Imports before they are needed: what steps import only when they come to it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module

# For each kind of candidate, in the order in which its steps come to it. Among them are modules of torch that its own
# functions import when first called; each of these takes half a second or more.
FIT: dict[str, tuple[str, ...]] = {
    "xgboost": ("xgboost", "sklearn.model_selection", "training.models.boosted"),
    "torch": ("torch", "sklearn.model_selection", "training.models.neural", "torch._dynamo"),
}
EXPORT: dict[str, tuple[str, ...]] = {
    "xgboost": ("onnxmltools.convert.xgboost.operator_converters.XGBoost",),
    "torch": (
        "torch.export._trace",
        "torch.onnx._internal.exporter._compat",
        "onnxscript.function_libs.torch_lib.ops",
    ),
}
LATER = (
    *(module for kinds in (FIT, EXPORT) for some in kinds.values() for module in some),
    "mlflow.models",
    "model_signing.signing",
)


def import_ahead(modules: Iterable[str]) -> None:
    """Import modules; one that cannot be is left to whoever needs it, and says there what is wrong."""
    for module in modules:
        with suppress(Exception):
            import_module(module)
