"""DeepEval, kept from phoning home, from writing and from greeting. The importer of deepeval."""

from __future__ import annotations

import contextlib
import io
import os

# It reads these when it is imported, and .env files, and makes a folder, unless it is told not to before.
for _name, _value in {
    "DEEPEVAL_TELEMETRY_OPT_OUT": "YES",
    "DEEPEVAL_DISABLE_DOTENV": "1",
    "DEEPEVAL_FILE_SYSTEM": "READ_ONLY",
    "DEEPEVAL_DISABLE_LEGACY_KEYFILE": "1",
    "DEEPEVAL_DISABLE_TIMEOUTS": "1",  # three minutes for all gates together; each has a deadline of its own
}.items():
    os.environ.setdefault(_name, _value)

with contextlib.redirect_stdout(io.StringIO()):  # it greets whoever imports it
    from deepeval import evaluate, metrics
    from deepeval.errors import DeepEvalError
    from deepeval.evaluate.configs import AsyncConfig, CacheConfig, DisplayConfig, ErrorConfig
    from deepeval.metrics import BaseMetric
    from deepeval.metrics.g_eval.utils import Rubric
    from deepeval.models import DeepEvalBaseLLM
    from deepeval.test_case import LLMTestCase, SingleTurnParams

__all__ = [
    "AsyncConfig", "BaseMetric", "CacheConfig", "DeepEvalBaseLLM", "DeepEvalError", "DisplayConfig", "ErrorConfig",
    "LLMTestCase", "Rubric", "SingleTurnParams", "evaluate", "metrics",
]  # fmt: skip
