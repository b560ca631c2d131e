"""Packages of models whose answers are known, made without MLflow, and clients that ask for them all the while."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.digest import digest_bytes, digest_file
from pipeline.errors import SlipwayError
from pipeline.serving_rules import Serving
from pipeline.settings import Settings
from pipeline.store import Store
from serving.live import Live
from serving.manifests import Version
from serving.model_config import model_config
from serving.package import package_key
from serving.signing import sign
from serving.triton import TritonClient
from tests.serving.known import SCHEMA, graph
from tests.support.polling import wait_for

ROW = {"numeric": np.array([[0.75, 0.0]], np.float32), "categorical": np.array([["u"]], dtype=object)}


def pack(settings: Settings, folder: Path, name: str, number: int, model: bytes) -> Version:
    """A signed package in `folder` and in the store."""
    version = folder / name / str(number)
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(model)
    facts = {"digest": digest_bytes(model), "run": "r", "dataset": "d", "spec": "s", "candidate": "xgboost"}
    text = model_config(name, number, SCHEMA, Serving(), facts)
    (folder / name / "config.pbtxt").write_text(text)
    files = {file: digest_file(folder / name / file) for file in ("config.pbtxt", f"{number}/model.onnx")}
    manifest = json.dumps({"schema_version": 1, "name": name, "version": number, "files": files}).encode()
    (folder / name / "manifest.json").write_bytes(manifest)
    sign(folder / name, settings)
    found = Version(name, number, digest_bytes(manifest), digest_bytes(model))
    Store(settings.store).put(folder / name, package_key(name, number, found.digest))
    return found


def serve(settings: Settings, folder: Path, name: str, number: int, model: bytes | None = None) -> Version:
    """A version that serves; without a model of its own its weight is its number."""
    version = pack(settings, folder, name, number, graph(float(number)) if model is None else model)
    live = Live(settings, name)
    live.keep(folder / name, number, version.digest)
    live.switch(number, version.digest, version.onnx_digest)
    return version


def answer(settings: Settings, name: str) -> bytes:
    """What the serving model answers to `ROW`, bit for bit."""
    with TritonClient(settings.triton_grpc, 10) as client:
        return client.infer(name, ROW, SCHEMA.output).tobytes()


@dataclass
class Asking:
    """A client that asks one model all the while: answers by their bits, and when there was none."""

    settings: Settings
    name: str
    answers: dict[bytes, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    last: float = 0.0  # when the last answer came
    pause_s: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        with TritonClient(self.settings.triton_grpc, 5) as client:
            while not self.over.is_set():
                try:
                    found = client.infer(self.name, ROW, SCHEMA.output).tobytes()
                    self.answers[found] = self.answers.get(found, 0) + 1
                    self.last = time.monotonic()
                    self.over.wait(self.pause_s)
                except SlipwayError as error:
                    self.failures.append(str(error))
                    time.sleep(0.05)

    def heard(self) -> dict[bytes, int]:
        """The answers since this was last asked."""
        found, self.answers = self.answers, {}
        return found

    def is_back(self, within_s: float) -> bool:
        """Return whether an answer to a question asked from now on comes within the time."""
        begin = time.monotonic()
        try:
            return wait_for(lambda: self.last > begin + 0.5, seconds=within_s)
        except TimeoutError:
            return False


@contextmanager
def asking(settings: Settings, name: str, pause_s: float = 0.0) -> Iterator[Asking]:
    client = Asking(settings, name, pause_s=pause_s)
    thread = threading.Thread(target=client.ask)
    thread.start()
    try:
        yield client
    finally:
        client.over.set()
        thread.join()
