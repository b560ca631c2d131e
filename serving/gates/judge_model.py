"""A model that judges text, behind any OpenAI-compatible endpoint. The importer of openai."""

from __future__ import annotations

from typing import Any

import openai
from openai.types.chat import ChatCompletion
from pydantic import BaseModel
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from pipeline.errors import Invalid, SlipwayError, Unavailable
from serving.gates.base import Endpoint
from serving.gates.evals import DeepEvalBaseLLM

READINGS = 3  # of an answer that is not what was asked for
_BUSY = (408, 409, 429)


class Unreadable(ValueError):
    """The model answered something else than the JSON that it was asked for."""


class JudgeModel(DeepEvalBaseLLM):  # type: ignore[misc]
    """What DeepEval's metrics ask; safe to share among threads. The endpoint chooses the temperature.

    Raises:
        Unavailable: the endpoint does not answer, is busy, or fails, also when asked again. A retry helps.
        Invalid: it refuses the key, the model's name or the request. A retry does not help.
        Unreadable: it answers no JSON, several times over.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._client = openai.OpenAI(
            base_url=endpoint.url, api_key=endpoint.key or "none", timeout=endpoint.timeout_s, max_retries=2
        )
        super().__init__(endpoint.model)

    def load_model(self, *_: Any, **__: Any) -> JudgeModel:
        """Nothing is loaded here."""
        return self

    def get_model_name(self, *_: Any, **__: Any) -> str:
        """As the endpoint knows it."""
        return self._endpoint.model

    def generate(self, prompt: str, schema: type[BaseModel] | None = None, **_: Any) -> Any:
        """The answer as text, or as `schema` read from the JSON in it."""
        asked_again = Retrying(
            retry=retry_if_exception_type(Unreadable), stop=stop_after_attempt(READINGS), reraise=True
        )
        return asked_again(self._answer, prompt, schema)

    async def a_generate(self, prompt: str, schema: type[BaseModel] | None = None, **options: Any) -> Any:
        """The same; votes run in threads."""
        return self.generate(prompt, schema, **options)

    def _answer(self, prompt: str, schema: type[BaseModel] | None) -> Any:
        try:
            found: Any = self._client.chat.completions.create(
                model=self._endpoint.model, messages=[{"role": "user", "content": prompt}]
            )
        except (openai.OpenAIError, ValueError) as error:
            raise self._failure(error) from error
        if not isinstance(found, ChatCompletion) or not found.choices:
            raise Invalid("the judge's endpoint answers no chat completion", self._endpoint.url, "correct its URL")
        text = (found.choices[0].message.content or "").rpartition("</think>")[2]
        if schema is None:
            return text
        try:
            return schema.model_validate_json(text[text.find("{") : text.rfind("}") + 1])
        except ValueError as error:
            raise Unreadable(f"the judge answered {text[:80]!r} where JSON was asked") from error

    def _failure(self, error: Exception) -> SlipwayError:
        said = " ".join(str(error).split())[:200]
        if self._endpoint.key:
            said = said.replace(self._endpoint.key, "***")
        where = f"{self._endpoint.url}, model {self._endpoint.model}"
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        if isinstance(error, openai.APIConnectionError) or (status and (status in _BUSY or status >= 500)):
            return Unavailable(f"the judge does not answer: {said}", where, "wait for it, or set SLIPWAY_JUDGE_URL")
        remedy = "correct SLIPWAY_JUDGE_URL, SLIPWAY_JUDGE_MODEL or SLIPWAY_JUDGE_KEY"
        return Invalid(f"the judge refuses the call: {said}", where, remedy)
