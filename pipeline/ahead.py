"""Imports before they are needed: what steps import only when they come to it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module

# What an export needs to read a candidate's model and to write its graph; each takes half a second or more. Among them
# are modules of torch that its own functions import when they are first called.
EXPORT: dict[str, tuple[str, ...]] = {
    "xgboost": ("training.models.boosted", "onnxmltools.convert.xgboost.operator_converters.XGBoost"),
    "torch": (
        "training.models.neural",
        "torch.export._trace",
        "torch.onnx._internal.exporter._compat",
        "onnxscript.function_libs.torch_lib.ops",
    ),
}
LATER = (  # and with that of the other steps
    *(module for modules in EXPORT.values() for module in modules),
    "sklearn.model_selection",
    "mlflow.models",
    "model_signing.signing",
)


def import_ahead(modules: Iterable[str]) -> None:
    """Import modules; one that cannot be is left to whoever needs it, and says there what is wrong."""
    for module in modules:
        with suppress(Exception):
            import_module(module)
