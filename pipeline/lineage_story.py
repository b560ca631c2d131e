"""What store and ledger tell of a run, as nodes of a lineage: its rows, checks and candidates, its record and gates."""

from __future__ import annotations

import re

from pipeline import refs
from pipeline.errors import SlipwayError
from pipeline.lineage_find import DATASET, ONNX, PACKAGE
from pipeline.lineage_graph import Graph, Node
from pipeline.record import PromotionRecord, record_of_run
from pipeline.registry import Version
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.store import Store
from pipeline.summary import Summary, summarise
from pipeline.terminal import room
from pipeline.tracking import RUN

NUMBERED = re.compile(r"/[0-9]{6,18}$")  # what the key of a record ends with
PIPELINE, SPEC, RECORD_KEY = "slipway.pipeline", "slipway.spec", "slipway.record.key"


class Story:
    """Adds to a graph what a run has left."""

    def __init__(self, settings: Settings, graph: Graph) -> None:
        self.settings, self.graph = settings, graph

    def version(self, version: Version) -> None:
        """The run that made it, its records, and what its gates said."""
        if RUN in version.tags:
            summary = self.run(version.tags.get(PIPELINE, version.name), version.tags[RUN], version.tags)
            for here, report in self._records(version) or [(version.id, summary.gates if summary else None)]:
                self._gates(here, version, report)

    def run(self, pipeline: str, run_id: str, tags: dict[str, str]) -> Summary | None:
        """A run in full, from the references that it left; None when they cannot be read."""
        run = Run(run_id, pipeline, self.settings, self.settings.specs_dir / f"{pipeline}.yaml")
        here, problem, summary = f"run/{pipeline}/{run_id}", "", None
        try:
            summary = summarise(run, _candidates(run))
            if not summary.tasks:
                problem = f"the store {run.store.url} has nothing of this run"
        except SlipwayError as error:
            problem = str(error)
        facts = {"pipeline": pipeline, "spec": tags.get(SPEC, ""), "outcome": summary.outcome if summary else ""}
        self.graph.add(Node(id=here, kind="run", title=f"run {run_id}", facts=facts, problem=problem))
        dataset = summary.dataset if summary else None
        if summary:
            self._candidates(here, summary)
        if digest := dataset.digest if dataset else tags.get(DATASET, ""):
            self.graph.link(here, self.dataset(digest, dataset), "read")
        return summary

    def dataset(self, digest: str, ref: refs.DatasetRef | None = None) -> str:
        """A snapshot; its id in the graph."""
        facts = {"digest": digest}
        if ref is not None:
            facts |= {"source": ref.source, "train_rows": str(ref.train_rows), "holdout_rows": str(ref.holdout_rows)}
        return self.graph.add(Node(id=f"dataset/{digest}", kind="dataset", title="dataset", facts=facts))

    def _candidates(self, run: str, summary: Summary) -> None:
        tail = run.removeprefix("run/")
        if (evaluation := summary.evaluation) is not None:
            for score in evaluation.scores:
                value = score.metrics.get(evaluation.primary)
                won = "winner" if score.candidate == evaluation.winner else score.reason
                facts = {evaluation.primary: "" if value is None else f"{value:.4f}", "verdict": won}
                title = f"candidate {score.candidate}"
                node = Node(id=f"candidate/{tail}/{score.candidate}", kind="candidate", title=title, facts=facts)
                self.graph.link(run, self.graph.add(node), "compared")
        if (checks := summary.checks) is not None:
            verdict = "passed" if checks.passed else "refused"
            met = f"{checks.evaluated - len(checks.failures)} of {checks.evaluated} met"
            facts = {"suite": checks.suite or "none", "verdict": verdict, "expectations": met}
            self.graph.link(
                run, self.graph.add(Node(id=f"checks/{tail}", kind="checks", title="checks", facts=facts)), "checked by"
            )

    def _records(self, version: Version) -> list[tuple[str, refs.GateReport | None]]:
        """The version's entries in the ledger whose signature holds, each with the gates that it keeps."""
        store, found = Store(self.settings.store), []
        waiting = [int(key.rpartition("/")[2]) for key in [version.tags.get(RECORD_KEY, "")] if NUMBERED.search(key)]
        while waiting:
            sequence = waiting.pop()
            node, title = f"record/{version.name}/{sequence}", f"record {sequence}"
            try:
                record: PromotionRecord = room("serving.ledger:verified")(self.settings, store, version.name, sequence)
            except SlipwayError as error:
                problem = "; ".join(one.what for one in error.problems)
                self.graph.add(Node(id=node, kind="record", title=title, problem=problem))
                self.graph.link(version.id, node, "recorded in")
                continue
            facts = {
                "of": record.kind,
                "written": record.times.written_at,
                "signature": "holds",
                "signer": record.signer,
                "approved by": record.approval.by if record.approval and record.approval.approved else "",
                "replicas": ", ".join(one.where for one in record.serving.replicas) if record.serving else "",
            }
            says = {ONNX: record.onnx_digest, PACKAGE: record.package.digest}
            says |= {DATASET: record.dataset.digest} if record.dataset else {}
            problem = "; ".join(
                f"it says {tag.removeprefix('slipway.')} {ours[:16]}, the registry {version.tags.get(tag, 'none')[:16]}"
                for tag, ours in says.items()
                if version.tags.get(tag) != ours
            )
            self.graph.add(Node(id=node, kind="record", title=title, facts=facts, problem=problem))
            self.graph.link(version.id, node, "recorded in")
            found.append((node, record.gates))
            if record.kind == "rollback" and (first := record_of_run(store, version.name, version.tags[RUN])):
                waiting.append(first.sequence)  # what was judged when it was promoted
        return found

    def _gates(self, here: str, version: Version, report: refs.GateReport | None) -> None:
        for verdict in report.verdicts if report else ():
            waived = f", waived by {verdict.waiver.by}" if verdict.waiver else ""
            node = Node(
                id=f"gate/{version.name}/{version.version}/{verdict.gate}",
                kind="gate",
                title=f"gate {verdict.gate}",
                facts={"verdict": f"{verdict.outcome}{waived}", "because": verdict.reason},
            )
            self.graph.link(here, self.graph.add(node), "judged by")


def _candidates(run: Run) -> tuple[str, ...]:
    """Names of the candidates that the run's pinned spec has."""
    envelope = run.envelope("evaluate")
    if envelope is None:
        return ()
    evaluation = refs.Evaluation.model_validate_json(envelope.ref)
    return tuple(score.candidate for score in evaluation.scores)
