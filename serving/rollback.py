"""`slipway rollback`: traffic and alias go back to the version that was kept."""

from __future__ import annotations

from pipeline.errors import Invalid
from pipeline.refs import PromotionRef
from pipeline.registry import Registry
from pipeline.settings import Settings
from serving.live import Live
from serving.promote import PREVIOUS, STATE
from serving.register import CHAMPION


def rollback(settings: Settings, registry: Registry, name: str) -> PromotionRef:
    """Serve the champion's predecessor again; the version taken back is `previous` in the answer.

    Raises:
        Invalid: nothing serves, or no earlier version is kept. A retry does not help.
        Unavailable: Triton or MLflow do not answer. A retry helps.
    """
    live = Live(settings, name)
    with live.alone():
        champion = registry.alias(name, CHAMPION)
        if champion is None:
            raise Invalid(f"{name!r} has no champion", settings.mlflow_uri, "run its pipeline first")
        remembered = registry.version_tags(name, champion).get(PREVIOUS, "")
        if not remembered or not live.package(int(remembered)).is_dir():
            raise Invalid(f"no version before {champion} is kept", f"model {name}", "run the pipeline for a new one")
        version = int(remembered)
        tags = registry.version_tags(name, version)
        live.switch(version, tags["slipway.package"], tags["slipway.onnx"])
        registry.set_version_tags(name, version, {STATE: "champion", PREVIOUS: ""})
        registry.set_alias(name, CHAMPION, version)
        registry.set_version_tags(name, champion, {STATE: "rolled back"})
    return PromotionRef(
        name=name,
        version=version,
        digest=tags["slipway.package"],
        previous=champion,
        http=settings.triton_http,
        grpc=settings.triton_grpc,
    )
