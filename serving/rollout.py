"""Step rollout: the challenger loads in a server of its own; what serves is not touched."""

from __future__ import annotations

from pipeline.errors import Invalid
from pipeline.refs import ModelVersionRef, PackageRef, RolloutRef
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.step import main
from serving.manifests import Version
from serving.plane import plane
from serving.probe import probe
from serving.triton import TritonClient


def rollout(spec: PipelineSpec, model: ModelVersionRef, package: PackageRef, run: Run) -> RolloutRef:
    """Start the challenger and return once it answers a row; older challengers of the model are ended first.

    Raises:
        Invalid: the package was changed, or the graph does not load. A retry does not help.
        Unavailable: the server does not start, no node takes it. A retry helps.
    """
    serving = plane(run.settings)
    ref = serving.start(Version(package.name, package.version, package.digest, model.onnx_digest))
    try:
        with TritonClient(ref.grpc, run.settings.timeout_s) as client:
            probe(client, package.name, package.version, model.onnx_digest)
    except Invalid:
        serving.end_challengers(package.name)
        raise
    run.log.info("%s version %d answers on a server of its own, %s", ref.name, ref.version, ref.grpc)
    return ref


if __name__ == "__main__":
    main(rollout)
