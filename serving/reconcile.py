"""`slipway reconcile`: what serves, held against the last entry of the ledger; and put back. Also `python -m`.

Alias, traffic and repository follow from a promotion, and from nothing else. What another hand has moved is said, one
sentence each; `--fix` puts it back. A promotion under way is waited for, and is no difference.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pkgutil import resolve_name
from typing import Annotated

import typer

from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.record import PromotionRecord, models
from pipeline.registry import Registry
from pipeline.run import new_run_id
from pipeline.served import Served
from pipeline.serving_rules import BlueGreen
from pipeline.settings import Settings, read_settings
from pipeline.store import Store
from pipeline.suggest import near
from pipeline.tracking import RUN
from serving import endpoints
from serving.answers import astray
from serving.differences import Difference, Reconciled, State, What
from serving.ledger import trusted, version_in
from serving.manifests import Version
from serving.plane import Plane, plane
from serving.promote import STATE
from serving.register import CHALLENGER, CHAMPION

STATES = {"local": "serving.embedded_state:EmbeddedState", "kubernetes": "serving.cluster_state:ClusterState"}
HAND = "by another hand"
RERUN = "run its pipeline: the promotion writes the first entry"
log = logging.getLogger("slipway")


class Reconciler:
    """Compares and puts back, model by model."""

    def __init__(
        self,
        settings: Settings,
        serving: Plane | None = None,
        state: State | None = None,
        ask: Callable[[tuple[str, ...]], tuple[Served, ...]] | None = None,
    ) -> None:
        self.settings, self.registry, self.store = settings, Registry(settings), Store(settings.store)
        self.plane = serving or plane(settings)
        self.state: State = state or resolve_name(STATES[settings.runtime])(settings)
        self._ask = ask or (lambda models: endpoints.serving(settings, models))

    def models(self) -> tuple[str, ...]:
        """Every model that has a ledger, a champion, or something that serves it."""
        named = {name for name, aliases in self.registry.models().items() if CHAMPION in aliases}
        return tuple(sorted(named | set(models(self.store)) | set(self.state.served_models())))

    def one(self, model: str, fix: bool) -> Reconciled:
        """Compare one model; with `fix`, put it back and compare again."""
        record, found = self._compare(model)
        if not found:
            return Reconciled(model=model, version=record.version if record else None)
        with ExitStack() as stack:
            try:  # what is under way now looks like a difference until it has ended
                stack.enter_context(self.plane.alone(model, f"reconcile-{new_run_id()}"))
            except Unavailable as busy:
                return Reconciled(model=model, version=None, under_way=busy.problems[0].what)
            record, found = self._compare(model)
            left = found
            if fix and record and found:
                failure = self._put_back(record, {one.what for one in found})
                left = (*failure, *self._compare(model)[1])
        return Reconciled(model=model, version=record.version if record else None, found=found, left=left)

    def _compare(self, model: str) -> tuple[PromotionRecord | None, tuple[Difference, ...]]:
        """The entry that may be trusted, and what differs from it; without one, why there is none."""
        aliases = self.registry.aliases(model)
        try:
            record = trusted(self.settings, self.store, model)
        except Invalid as error:
            return None, tuple(
                Difference(what="signature", sentence=f"{one.where}: {one.what}", remedy=one.remedy)
                for one in error.problems
            )
        if record is None:
            if CHAMPION not in aliases and model not in self.state.served_models():
                return None, ()  # never promoted
            named = f"version {aliases[CHAMPION]}" if CHAMPION in aliases else "no version"
            what = f"it has no ledger: it was promoted before records were kept, or {HAND}; champion is {named}"
            return None, (Difference(what="ledger", sentence=what, remedy=RERUN),)
        differences = (*self._registry(record, aliases), *self._replicas(record, aliases), *self._kept(record))
        return record, differences

    def _registry(self, record: PromotionRecord, aliases: dict[str, int]) -> Iterator[Difference]:
        name, number = record.model, record.version
        try:
            tags = self.registry.version_tags(name, number)
        except Invalid:
            what = f"the registry has no version {number} of {name}, which {_since(record)}: it was deleted {HAND}"
            remedy = "restore MLflow's database; what serves is put back all the same"
            yield Difference(what="registry", sentence=what, remedy=remedy)
            return
        for tag, ought in _tags(record).items():
            if tags.get(tag) != ought:
                what = f"tag {tag} of version {number} is {tags.get(tag, 'absent')}, recorded was {ought}"
                yield Difference(what="registry", sentence=f"{what}, changed {HAND}")
        if aliases.get(CHAMPION) != number:
            named = f"names version {aliases[CHAMPION]}" if CHAMPION in aliases else "is gone"
            what = f"alias {CHAMPION} {named}, {self._whose(record, aliases.get(CHAMPION), aliases)}"
            yield Difference(what="alias", sentence=f"{what}; {_since(record)} it is version {number}")
        if (left := aliases.get(CHALLENGER)) is not None and (why := self._is_left(record, left)):
            yield Difference(what="challenger", sentence=f"alias {CHALLENGER} still names version {left}, {why}")

    def _replicas(self, record: PromotionRecord, aliases: dict[str, int]) -> Iterator[Difference]:
        served = self._ask((record.model,))
        if not served:
            yield Difference(what="replica", sentence=f"no server has version {record.version}, which {_since(record)}")
        for one in served:
            if one.error:
                yield Difference(what="replica", sentence=f"{one.where} does not say what it serves: {one.error}")
                continue
            if others := [number for number in one.loaded if number != record.version]:
                has = f"{one.where} has version {', '.join(map(str, others))} loaded"
                yield Difference(what="replica", sentence=f"{has}, {self._whose(record, one.version, aliases)}")
            for thing, says, ought in (
                ("graph", one.digest, record.onnx_digest),
                ("package", one.package or record.package.digest, record.package.digest),
            ):
                if record.version in one.loaded and says != ought:
                    what = f"{one.where} says that its {thing} is {says[:16] or 'none'}, recorded was {ought[:16]}"
                    yield Difference(what="replica", sentence=f"{what}: loaded {HAND}")

        if self.settings.runtime == "local" and (how := astray(self.settings, self.store, record)):
            what = f"version {record.version} does not answer as it did ({how}): another graph was loaded {HAND}"
            yield Difference(what="replica", sentence=what)

    def _kept(self, record: PromotionRecord) -> Iterator[Difference]:
        for sentence in self.state.moved(version_in(record)):
            yield Difference(what="traffic", sentence=sentence)

    def _whose(self, record: PromotionRecord, number: int | None, aliases: dict[str, int]) -> str:
        """Who has moved it to a version: a promotion that died half-way, or somebody."""
        if number is None or number != aliases.get(CHALLENGER) or number == record.version:
            return HAND
        run = self.registry.version_tags(record.model, number).get(RUN, "unknown")
        return f"by the promotion of run {run}, which ended half-way"

    def _is_left(self, record: PromotionRecord, challenger: int) -> str:
        """Why this challenger is none any more; empty while its run may still go on."""
        if challenger == record.version:
            return "which serves"
        try:
            run = self.registry.version_tags(record.model, challenger).get(RUN)
        except Invalid:
            return "which is not there"
        runs = self.registry.pipeline_runs(f"tags.`{RUN}` = '{run}'") if run else ()
        if any(one.is_running for one in runs):
            return ""
        return f"whose run {run} has ended" if run else "which no run of Slipway made"

    def _put_back(self, record: PromotionRecord, what: set[What]) -> tuple[Difference, ...]:
        """In the order of a promotion: what serves, then its names. What fails is a difference of its own."""
        version, name = version_in(record), record.model
        log.info("%s: version %d is put back", name, version.number)
        try:
            if what & {"replica", "traffic"}:
                self.state.mend(version)
                self.plane.switch(version, BlueGreen(kind="blue_green"))
                before = record.previous and Version(name, record.previous, "", "")  # its number is all that is asked
                self.plane.settle(version, before or None)
            if "challenger" in what:
                self.registry.delete_alias(name, CHALLENGER)
                self.plane.end_challengers(name)
            if what & {"registry", "alias"} and self._is_registered(version):
                self.registry.set_version_tags(name, version.number, {STATE: "champion", **_tags(record)})
                self.registry.set_alias(name, CHAMPION, version.number)
        except SlipwayError as error:
            return tuple(
                Difference(what="fix", sentence=f"it was not put back: {one.what}", remedy=one.remedy)
                for one in error.problems
            )
        return ()

    def _is_registered(self, version: Version) -> bool:
        return any(one.version == version.number for one in self.registry.versions(f"name = '{version.name}'"))


def reconcile(settings: Settings, model: str | None = None, fix: bool = False) -> tuple[Reconciled, ...]:
    """Compare every model, or one; with `fix`, put back what was moved.

    Raises:
        Invalid: there is no such model. A retry does not help.
        Unavailable: MLflow, the store or the cluster do not answer. A retry helps.
    """
    office = Reconciler(settings)
    known = office.models()
    if model is not None and model not in known:
        remedy = near(model, known) if known else "nothing was ever promoted"
        raise Invalid(f"nothing is known of a model {model!r}", settings.store, remedy)
    return tuple(office.one(name, fix) for name in (known if model is None else (model,)))


def _tags(record: PromotionRecord) -> dict[str, str]:
    """The registry's copies of what the record says."""
    digests = {"slipway.onnx": record.onnx_digest, "slipway.package": record.package.digest}
    return {**digests, "slipway.record.key": record.key}


def _since(record: PromotionRecord) -> str:
    return f"by the {record.kind} of {record.times.written_at} (run {record.run})"


def sentences(found: tuple[Reconciled, ...], fix: bool) -> Iterator[str]:
    """What a person is told, model by model."""
    for one in found:
        if one.under_way:
            yield f"{one.model}: not compared: {one.under_way}"
        elif not one.found:
            yield f"{one.model}: all agrees" + (f" on version {one.version}" if one.version else "")
        for difference in one.found:
            yield f"{one.model}: {difference}"
        if fix and one.found and not one.left:
            yield f"{one.model}: put back; all agrees on version {one.version}"
        elif fix and one.left:
            yield from (f"{one.model}: still: {difference}" for difference in one.left)


def main(
    model: Annotated[str | None, typer.Argument(help="name of the model (default: every one)")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="put back what was moved")] = False,
) -> None:
    """Say what does not agree with the ledger, and put it back; exits with 3 while something differs."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        found = reconcile(read_settings(), model, fix)
    except SlipwayError as error:
        for problem in error.problems:
            sys.stderr.write(f"{error.title}: {problem}\n")
        raise typer.Exit(error.exit_code) from None
    sys.stdout.writelines(f"{line}\n" for line in sentences(found, fix))
    if any(one.left for one in found):
        raise typer.Exit(3)


if __name__ == "__main__":
    typer.run(main)
