"""DeepEval, kept from phoning home, from writing and from greeting. The importer of deepeval."""
# ruff: noqa: E402 (it reads the environment when it is imported)

from __future__ import annotations

import os

# It reads these when it is imported, and .env files, unless it is told not to before.
for _name, _value in {
    "DEEPEVAL_TELEMETRY_OPT_OUT": "YES",
    "DEEPEVAL_DISABLE_DOTENV": "1",
    "DEEPEVAL_DISABLE_LEGACY_KEYFILE": "1",
    "DEEPEVAL_DISABLE_TIMEOUTS": "1",  # three minutes for all gates together; each has a deadline of its own
}.items():
    os.environ.setdefault(_name, _value)
_FILES = os.environ.pop("DEEPEVAL_FILE_SYSTEM", "READ_ONLY")  # while it is set, an import prints a warning on stdout

from deepeval import evaluate, metrics
from deepeval.errors import DeepEvalError
from deepeval.evaluate.configs import AsyncConfig, CacheConfig, DisplayConfig, ErrorConfig
from deepeval.metrics import BaseMetric
from deepeval.metrics.g_eval.utils import Rubric
from deepeval.models import DeepEvalBaseLLM
from deepeval.test_case import LLMTestCase, SingleTurnParams

os.environ["DEEPEVAL_FILE_SYSTEM"] = _FILES

__all__ = [
    "AsyncConfig", "BaseMetric", "CacheConfig", "DeepEvalBaseLLM", "DeepEvalError", "DisplayConfig", "ErrorConfig",
    "LLMTestCase", "Rubric", "SingleTurnParams", "evaluate", "metrics",
]  # fmt: skip
