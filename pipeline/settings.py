"""Where it runs: endpoints, folders and ports, read once from the environment (`SLIPWAY_…`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.errors import Invalid, Problem

PREFIX = "SLIPWAY_"
MARK = f"{PREFIX}STACK"  # no setting: in the environment of every process of a stack, its home
LEAST_MEMORY_GIB = 0.0625


def _root() -> Path:
    """The checkout that this package was installed from, else the current folder."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


class Settings(BaseSettings):
    """Every place that a step may reach. Read in `main` and handed down; nothing else reads the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    runtime: Literal["local", "kubernetes"] = Field(
        default="local", description="where steps run and versions serve: processes of this machine, or a cluster"
    )
    root: Path = Field(default_factory=_root, description="project folder: specs and suites are found below it")
    home: Path = Field(default=Path(), description="state of the embedded stack (default: <root>/.slipway)")
    store: str = Field(default="", description="fsspec URL or folder of the artifact store (default: <home>/store)")
    specs_dir: Path = Field(default=Path(), description="folder of specs, one DAG each (default: <root>/dags/specs)")
    suites_dir: Path = Field(default=Path(), description="expectation suites (default: <root>/feature_checks/suites)")
    host: str = Field(default="127.0.0.1", description="address on which the embedded servers listen")
    airflow_port: int = Field(default=8080, ge=1, le=65535)
    airflow_url: str = Field(default="", description="Airflow (default: the embedded one)")
    airflow_user: str = Field(default="admin", description="user of Airflow")
    airflow_password: SecretStr | None = Field(
        default=None, description="password of Airflow (default: the embedded one's)"
    )
    mlflow_port: int = Field(default=5000, ge=1, le=65535)
    mlflow_uri: str = Field(default="", description="MLflow tracking server (default: the embedded one)")
    triton_http_port: int = Field(default=8000, ge=1, le=65535)
    triton_grpc_port: int = Field(default=8001, ge=1, le=65535)
    triton_metrics_port: int = Field(default=8002, ge=1, le=65535)
    triton_dir: Path = Field(default=Path(), description="installed tritonserver (default: <root>/.triton)")
    namespace: str = Field(default="default", description="namespace of the pods, on Kubernetes")
    release: str = Field(default="slipway", description="how the names of served objects begin, on Kubernetes")
    pods: Path = Field(default=Path(), description="policy of step pods (default: <root>/policy/pods.yaml)")
    serving: Path = Field(default=Path(), description="policy of served versions (default: <root>/policy/serving.yaml)")
    ray: Path = Field(default=Path(), description="policy of RayJobs (default: <root>/policy/ray.yaml)")
    ray_address: str = Field(
        default="", description="Ray cluster to fit on, `auto` inside one; empty: one is started, here or by a RayJob"
    )
    signing: Literal["key", "sigstore"] = Field(
        default="key", description="how packages and records are signed: an EC key, or sigstore by identity"
    )
    signing_key: Path = Field(default=Path(), description="private EC key (PEM), default <home>/keys/signing.pem")
    verify_key: Path = Field(
        default=Path(),
        description="public key or certificate (PEM) of what may be served, default <home>/keys/verify.pem",
    )
    sigstore_identity: str = Field(default="", description="whose signature sigstore must show")
    sigstore_issuer: str = Field(default="", description="OpenID Connect issuer of that identity")
    judge_url: str = Field(default="", description="OpenAI-compatible endpoint of the model that judges text")
    judge_model: str = Field(default="", description="name of the model that judges text")
    judge_key: SecretStr | None = Field(default=None, description="its API key")
    openlineage_url: str = Field(default="", description="receiver of OpenLineage events; empty: none are sent")
    openlineage_key: SecretStr | None = Field(default=None, description="its API key")
    threads: int = Field(default=0, ge=0, description="threads of a fit, and of a check (0: one for each core)")
    memory_gib: float = Field(
        default=0.0,
        allow_inf_nan=False,
        description="memory of a fit or check, in GiB (0: half of the machine's or pod's, shared by the candidates)",
    )
    timeout_s: float = Field(default=30.0, gt=0, description="deadline for one call to an outside server")

    @field_validator("memory_gib")
    @classmethod
    def _enough(cls, value: float) -> float:
        if value and value < LEAST_MEMORY_GIB:
            raise ValueError(f"0 or at least {LEAST_MEMORY_GIB} GiB: less holds no batch of rows")
        return value

    def model_post_init(self, _: object) -> None:
        """Fill the defaults that follow from other fields."""

        def default(name: str, value: Path | str) -> None:
            if getattr(self, name) in (Path(), ""):
                object.__setattr__(self, name, value)
            elif isinstance(getattr(self, name), Path):
                object.__setattr__(self, name, getattr(self, name).expanduser().absolute())

        default("root", _root())
        default("home", self.root / ".slipway")
        default("store", str(self.home / "store"))
        default("specs_dir", self.root / "dags" / "specs")
        default("suites_dir", self.root / "feature_checks" / "suites")
        default("triton_dir", self.root / ".triton")
        default("mlflow_uri", f"http://{self.address}:{self.mlflow_port}")
        default("airflow_url", f"http://{self.address}:{self.airflow_port}")
        default("signing_key", self.home / "keys" / "signing.pem")
        default("verify_key", self.home / "keys" / "verify.pem")
        default("pods", self.root / "policy" / "pods.yaml")
        default("serving", self.root / "policy" / "serving.yaml")
        default("ray", self.root / "policy" / "ray.yaml")

    @property
    def address(self) -> str:
        """How the embedded servers are called: by `host`, or by loopback where that means every address."""
        return "127.0.0.1" if self.host == "0.0.0.0" else self.host  # noqa: S104 (compared, not listened on)

    @property
    def triton_http(self) -> str:
        """host:port of the serving Triton's HTTP."""
        return f"{self.address}:{self.triton_http_port}"

    @property
    def triton_grpc(self) -> str:
        """host:port of the serving Triton's gRPC."""
        return f"{self.address}:{self.triton_grpc_port}"


def read_settings() -> Settings:
    """The settings of this process.

    Raises:
        Invalid: a variable has a wrong value; names each one. A retry does not help.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise Invalid(
            [
                Problem(
                    f"{item['msg']} (value {item['input']!r})",
                    where=f"environment variable {PREFIX}{'_'.join(str(part) for part in item['loc']).upper()}",
                    remedy="correct or unset it",
                )
                for item in error.errors()
            ]
        ) from error


def unknown_variables() -> Iterator[Problem]:
    """What is set, begins as settings do, and is none. Not wrong: others may name variables so, as Kubernetes does."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in {*known, MARK}:
            close = get_close_matches(name, known, n=1)
            remedy = f"did you mean {close[0]}?" if close else "the guide lists those there are"
            yield Problem("there is no such setting", f"environment variable {name}", remedy)
