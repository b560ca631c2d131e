"""On a GPU: what was fitted there answers as well as what was fitted on the processor, and the same wherever it is asked.

Skipped where there is none, or where a library was built without CUDA.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.gate_rules import Tolerance
from pipeline.spec import Torch, XGBoost
from pipeline.target import encode_target
from training.features import fit_features
from training.models.base import Fold, Native, Trainer
from training.parity import prove

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture(scope="module")
def gpu() -> None:
    """Skip the tests where PyTorch finds no GPU."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU")


def fitted(kind: str, device: str, table: Callable) -> tuple[Native, Fold]:
    frame, schema, tensors = table("binary")
    features = fit_features(frame, schema)
    x, y = features.matrix(tensors), encode_target(frame, schema)
    cut = len(x) * 3 // 4
    fold = Fold(x[:cut], y[:cut], x[cut:], y[cut:])
    trainer: Trainer
    if kind == "torch":
        from training.models.neural import NeuralTrainer

        trainer = NeuralTrainer.of(Torch(kind="torch", epochs=20, device=device), features, 2)
    else:
        import xgboost as xgb

        from training.models.boosted import BoostedTrainer

        if device == "cuda" and not xgb.build_info().get("USE_CUDA"):
            pytest.skip("XGBoost was built without CUDA")
        trainer = BoostedTrainer.of(XGBoost(kind="xgboost", rounds=50, device=device), features, 2)
    return Native(features, trainer.fit(fold, trainer.defaults(), 7, None, None).model), fold


@pytest.mark.parametrize("kind", ["torch", "xgboost"])
def test_a_model_fitted_on_a_gpu_is_as_good_and_its_graph_is_the_model(kind: str, table: Callable) -> None:
    from sklearn.metrics import log_loss

    from training.onnx_model import build
    from training.onnx_session import OnnxModel

    there, fold = fitted(kind, "cuda", table)
    here, _ = fitted(kind, "cpu", table)
    losses = [log_loss(fold.y_valid, native.model.predict(fold.x_valid)[:, 1]) for native in (there, here)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    _, schema, tensors = table("binary")
    proof = prove(schema, Tolerance(), there.predict, OnnxModel(build(there, kind)).predict, tensors)
    assert [case for case in proof.cases if not case.passed] == []


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
@pytest.mark.parametrize("kind", ["torch", "xgboost"])
def test_a_graph_answers_the_same_by_every_provider(kind: str, provider: str, table: Callable) -> None:
    import onnxruntime as ort

    from training.onnx_model import build

    if provider not in ort.get_available_providers():
        pytest.skip(f"ONNX Runtime was built without {provider}")
    native, _ = fitted(kind, "cpu", table)
    _, schema, tensors = table("binary")
    session = ort.InferenceSession(build(native, kind), providers=[provider, "CPUExecutionProvider"])
    assert session.get_providers()[0] == provider
    wide = Tolerance(atol=1e-4, rtol=1e-3)  # GPUs multiply in TF32
    proof = prove(schema, wide, native.predict, lambda some: np.asarray(session.run(None, some)[0]), tensors)
    assert [case for case in proof.cases if not case.passed] == []
