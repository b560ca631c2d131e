"""A promotion follows what was judged and signed, whatever somebody writes into the run's folder since."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import Invalid
from pipeline.refs import GateReport, ModelVersionRef, Verdict
from pipeline.run import Run
from pipeline.settings import Settings
from serving.judgement import Judgement, judgement, keep, kept, require
from tests.serving.known import spec_of

SPEC = spec_of("m")
MODEL = ModelVersionRef(
    name="m", version=3, candidate="x", model_id="i", run_id="r", onnx_key="k", onnx_digest="d", predictions="p"
)
REFUSED = GateReport(
    passed=False, verdicts=(Verdict(gate="quality", outcome="refused", reason="too bad"),), champion=None
)
PASSED = REFUSED.model_copy(update={"passed": True, "verdicts": ()})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("r1", "m", Settings(home=tmp_path), tmp_path / "m.yaml")


def said(run: Run, report: GateReport = REFUSED) -> Judgement:
    return judgement(SPEC, MODEL, report, run)


def test_what_was_judged_is_what_is_required_and_the_first_word_stays(run: Run) -> None:
    assert kept(run) is None
    keep(said(run), run)
    keep(said(run, PASSED), run)
    require(said(run), run)
    assert kept(run) == said(run)


def test_nothing_is_promoted_on_a_word_that_nobody_signed(run: Run) -> None:
    with pytest.raises(Invalid, match="no judgement of the gates is signed"):
        require(said(run, PASSED), run)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"report": PASSED}, "report"),
        ({"version": 4}, "version"),
        ({"onnx_digest": "e"}, "onnx_digest"),
        ({"spec_digest": "f"}, "spec_digest"),
        ({"run": "r2"}, "run"),
        ({"model": "n"}, "model"),
    ],
)
def test_another_report_or_thing_is_not_what_was_judged(run: Run, change: dict[str, object], named: str) -> None:
    keep(said(run), run)
    with pytest.raises(Invalid, match=f"^run r1: {named} changed since the gates judged"):
        require(said(run).model_copy(update=change), run)


def flipped(folder: Path) -> None:
    file = folder / "judgement.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 4}))


@pytest.mark.parametrize(
    "harm",
    [
        flipped,
        lambda folder: (folder / "model.sig").unlink(),
        lambda folder: (folder / "judgement.json").unlink(),
        lambda folder: (folder / "more").write_text("x"),
        lambda folder: (folder / "model.sig").write_bytes(b"{}"),
    ],
)
def test_a_judgement_that_was_touched_is_none(run: Run, harm: Callable[[Path], object]) -> None:
    keep(said(run), run)
    harm(Path(run.store.path(f"{run.key}/judgement")))
    with pytest.raises(Invalid, match="look at who may"):
        require(said(run), run)


def test_the_word_of_another_key_is_none(run: Run, tmp_path: Path) -> None:
    theirs = Run(run.id, "m", Settings(home=tmp_path / "theirs"), run.spec_path)
    keep(said(run, PASSED), theirs)
    shutil.copytree(Path(theirs.store.path(f"{theirs.key}/judgement")), Path(run.store.path(f"{run.key}/judgement")))
    with pytest.raises(Invalid, match="signature does not hold"):
        require(said(run, PASSED), run)


def test_one_that_was_signed_for_another_run_is_none(run: Run) -> None:
    other = Run("r0", "m", run.settings, run.spec_path)
    keep(said(other, PASSED), other)
    shutil.copytree(Path(run.store.path(f"{other.key}/judgement")), Path(run.store.path(f"{run.key}/judgement")))
    with pytest.raises(Invalid, match="run changed since"):
        require(said(run, PASSED), run)
