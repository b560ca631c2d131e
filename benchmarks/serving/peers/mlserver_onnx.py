"""MLServer's custom runtime for ONNX, as its documentation writes one: it has none of its own."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(await get_model_uri(self._settings), options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        numeric = self.decode(payload.inputs[0], default_codec=NumpyCodec).astype(np.float32, copy=False)
        answer = self.session.run(None, {"numeric": numeric})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", answer)])
