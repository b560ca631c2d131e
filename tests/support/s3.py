"""An S3 server in this process (PyPI moto), and buckets in it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.support.ports import HOST, worker_port


@dataclass(frozen=True)
class S3:
    """A running server; it accepts any credentials."""

    url: str

    @property
    def variables(self) -> dict[str, str]:
        """AWS's own variables, by which the store finds the server."""
        return aws_variables(self.url)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process use the server for the rest of the test."""
        use_endpoint(monkeypatch, self.url)

    def create_bucket(self, name: str = "") -> str:
        """Create a bucket and return its name; without a name it gets a new one."""
        import boto3

        name = name or f"bucket-{uuid.uuid4().hex[:12]}"
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=self.url, **keys).create_bucket(Bucket=name)
        return name


def aws_variables(url: str) -> dict[str, str]:
    """Return the variables of an S3 endpoint."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Set the variables of an S3 endpoint for one test.

    s3fs keeps file systems, with their endpoints, for as long as the process lives: they are dropped here.
    """
    import s3fs

    for name, value in aws_variables(url).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def running_s3() -> Iterator[S3]:
    """Run a server in a thread as long as the block runs."""
    from moto.server import ThreadedMotoServer

    port = worker_port()
    server = ThreadedMotoServer(HOST, port, verbose=False)
    server.start()
    try:
        yield S3(f"http://{HOST}:{port}")
    finally:
        server.stop()
