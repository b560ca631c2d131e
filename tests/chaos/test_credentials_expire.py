"""The store's credentials expire in the middle of every step: it says so, and ends right when they are renewed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import boto3
import pytest
import s3fs
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from pipeline.graph import STEPS
from pipeline.refs import PromotionRef
from pipeline.run import Run
from pipeline.settings import Settings
from tests.chaos.world import World, results

pytestmark = pytest.mark.stack
EXPIRED = "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


class Bucket:
    """An S3 server that refuses the credentials after so many more requests."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.left = 1_000_000
        self.s3 = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, object], start: object) -> Iterable[bytes]:
        self.left -= 1
        if self.left >= 0:
            return self.s3(environ, start)  # type: ignore[no-any-return]
        return Response(EXPIRED, 400, content_type="application/xml")(environ, start)  # type: ignore[arg-type]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    one = Bucket()
    server = make_server("127.0.0.1", 0, one, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    one.variables = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
    for name, value in one.variables.items():
        monkeypatch.setenv(name, value)  # what reads the run here, too
    boto3.client("s3").create_bucket(Bucket="expires")
    s3fs.S3FileSystem.clear_instance_cache()
    yield one
    server.shutdown()
    s3fs.S3FileSystem.clear_instance_cache()  # it remembers the address


def test_a_run_whose_credentials_expire_in_every_step(world: World, calm: dict[str, float], bucket: Bucket) -> None:
    name = "expired"
    world.spec(name)
    settings: Settings = world.settings.model_copy(update={"store": "s3://expires/store"})
    for step in STEPS:
        for after in (0, world.draw.randint(1, 12)):
            bucket.left = after
            ended = world.step(step.name, name, "r1", settings=settings, **bucket.variables)
            if bucket.left < 0:  # it has met a refusal
                assert ended.code == 1, ended.said
                assert "does not take the credentials" in ended.said
                assert "Traceback" not in ended.said, ended.said
                assert ended.said.strip().count("\n") < 5, ended.said
            else:
                assert ended.code == 0, ended.said
                assert after, "no step does without the store"
        bucket.left = 1_000_000
        ended = world.step(step.name, name, "r1", settings=settings, **bucket.variables)
        assert ended.code == 0, ended.said
    run: Run = world.run(name, "r1", settings)
    assert results(run) == results(world.run("calm", "r1"))
    assert run.ref(PromotionRef).version == 1
