"""What a live server says it serves: its own word, to be held against registry and record."""

from __future__ import annotations

from pipeline.frozen import Frozen


class Served(Frozen):
    """One model on one server. `error` is set when it did not answer; the rest is empty then."""

    model: str
    address: str
    replica: str = ""  # the pod's name, in a cluster
    version: int | None = None  # of the versions that are loaded, the one that answers
    loaded: tuple[int, ...] = ()  # every version that is
    digest: str = ""  # the ONNX graph's, by the configuration that is loaded
    run: str = ""
    dataset: str = ""
    package: str = ""  # in a cluster: the package that the pod was made from
    said: str = ""  # the version, by the configuration that is loaded
    error: str = ""

    @property
    def where(self) -> str:
        """How a person knows it."""
        return f"{self.replica} ({self.address})" if self.replica else self.address
