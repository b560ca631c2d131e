"""What the gates said, signed by who judged: steps write to the same store, and `promote` believes no unsigned word."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pydantic import ValidationError

from pipeline.errors import Invalid, Problem
from pipeline.frozen import Frozen
from pipeline.refs import GateReport, ModelVersionRef
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from serving.signing import check_signature, sign

FILE = "judgement.json"
REMEDY = "somebody has written to the run's folder in the store: look at who may, and start a new run"


class Judgement(Frozen):
    """A report, and what exactly it is about: no other run, spec, version or graph can borrow it."""

    run: str
    spec_digest: str
    model: str
    version: int
    onnx_digest: str
    report: GateReport


def judgement(spec: PipelineSpec, model: ModelVersionRef, report: GateReport, run: Run) -> Judgement:
    """The report on this version in this run."""
    return Judgement(
        run=run.id,
        spec_digest=spec.digest,
        model=model.name,
        version=model.version,
        onnx_digest=model.onnx_digest,
        report=report,
    )


def keep(said: Judgement, run: Run) -> None:
    """Sign and keep it; the one that is there stays. Raises Invalid without a key, Unavailable for the store."""
    with tempfile.TemporaryDirectory(prefix="slipway-") as scratch:
        folder = Path(scratch) / "judgement"
        folder.mkdir()
        (folder / FILE).write_text(said.model_dump_json(indent=1), encoding="utf-8")
        sign(folder, run.settings)
        run.store.put(folder, _key(run))


def kept(run: Run) -> Judgement | None:
    """The judgement of this run, or None when there is none.

    Raises:
        Invalid: it is not signed by who may judge, or cannot be read. A retry does not help.
        Unavailable: the store does not answer. A retry helps.
    """
    if not run.store.exists(_key(run)):
        return None
    where = run.store.path(_key(run))
    with run.store.local(_key(run)) as folder:
        try:
            check_signature(folder, run.settings)
            return Judgement.model_validate_json((folder / FILE).read_bytes())
        except Invalid as error:
            raise Invalid([Problem(one.what, where, REMEDY) for one in error.problems]) from error
        except (OSError, ValidationError) as error:
            raise Invalid("the judgement cannot be read", where, REMEDY) from error


def require(said: Judgement, run: Run) -> None:
    """Return when this is what was judged and signed.

    Raises:
        Invalid: nothing was, or something else: report, spec, version or graph have changed since. A retry does not
            help.
        Unavailable: the store does not answer. A retry helps.
    """
    signed = kept(run)
    if signed == said:
        return
    changed = [name for name in Judgement.model_fields if signed and getattr(signed, name) != getattr(said, name)]
    what = f"{', '.join(changed)} changed since the gates judged" if signed else "no judgement of the gates is signed"
    raise Invalid(what, f"run {run.id}", REMEDY)


def _key(run: Run) -> str:
    return f"{run.key}/judgement"
