"""Traffic and alias move together or not at all: refusals, kills between any two writes, two at once, roll-back."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest

from pipeline.digest import digest_bytes
from pipeline.errors import Invalid, Rejected, SlipwayError, Unavailable
from pipeline.gate_rules import Waiver
from pipeline.record import RECORD, digest_of, read_record, record_key, sequences
from pipeline.refs import PromotionRef, Verdict
from pipeline.run import ROLLBACK, Run
from pipeline.settings import Settings
from serving import live as live_module
from serving.embedded import EmbeddedPlane
from serving.ledger import verified
from serving.live import Live
from serving.manifests import Version
from serving.places import repository
from serving.plane import plane
from serving.promote import version_of
from serving.record import KEY_TAG, TAG
from serving.register import CHALLENGER, CHAMPION
from serving.rollback import Way, rollback
from serving.triton import TritonClient
from tests.serving.chain import Chain
from tests.serving.known import PASSED, native
from tests.serving.promoted import (  # noqa: F401 (fixtures)
    PromotedModel,
    answers_as,
    logged_models_fixture,
    make_fixture,
    promoted_fixture,
    promoted_models_fixture,
)
from tests.support.polling import wait_for

pytestmark = pytest.mark.stack


def back_run(settings: Settings) -> Run:
    return Run(f"back-{uuid.uuid4().hex}", ROLLBACK, settings, Path())


def champion(one: Chain) -> int | None:
    return aliases(one).get(CHAMPION)


def aliases(one: Chain) -> dict[str, int]:
    return one.run.registry.aliases(one.spec.name)


def entries(promoted: PromotedModel) -> int:
    """Return the number of entries in the audit log."""
    return len(sequences(promoted.store, promoted.name))


@pytest.fixture
def traffic() -> Iterator[Callable[[Chain], list[str]]]:
    """Send requests all the while; collect failures, and answers of neither version."""
    stop, problems = threading.Event(), []
    pool = ThreadPoolExecutor(3)

    def start(old: Chain, new: Chain) -> list[str]:
        tensors = {name: value[:4] for name, value in old.tensors.items()}
        allowed = [native(old.weight, tensors), native(new.weight, tensors)]

        def ask() -> None:
            with TritonClient(old.run.settings.triton_grpc, 10) as client:
                while not stop.is_set():
                    try:
                        answer = client.infer(old.spec.name, tensors, "probabilities")
                        if not any(np.allclose(answer, one, atol=1e-5) for one in allowed):
                            problems.append(f"neither version: {answer}")
                    except SlipwayError as error:
                        problems.append(str(error))
                    time.sleep(0.002)

        for _ in range(3):
            pool.submit(ask)
        return problems

    yield start  # type: ignore[misc]
    stop.set()
    pool.shutdown()


@pytest.mark.smoke
def test_a_first_version_a_second_and_the_way_back(make: Callable[..., Chain], traffic: Callable) -> None:
    first, second = make("r1", 1.0), make("r2", 3.0)
    end = first.promote(*first.ready())
    assert (end.version, end.previous) == (1, None)
    assert answers_as(first)
    assert champion(first) == 1
    problems = traffic(first, second)
    report = PASSED.model_copy(update={"champion": 1})
    end = second.promote(*second.ready(report))
    assert (end.version, end.previous) == (2, 1)
    assert answers_as(second)
    assert (champion(second), second.run.registry.alias(second.spec.name, CHALLENGER)) == (2, None)
    back = rollback(back_run(first.run.settings), first.spec.name)
    assert (back.version, back.previous) == (1, 2)
    assert answers_as(first)
    assert champion(first) == 1
    assert first.run.registry.version_tags(first.spec.name, 2)["slipway.state"] == "rolled back"
    assert not problems, problems[:3]
    with pytest.raises(Invalid, match="no version before 1 is kept"):
        rollback(back_run(first.run.settings), first.spec.name)


def test_a_run_takes_one_model_back(promoted: PromotedModel, make: Callable[..., Chain]) -> None:
    second, other = promoted.new(), make("r1", 1.0)
    version = second.promote(*second.ready(promoted.report)).version
    other.promote(*other.ready())
    run = back_run(promoted.settings)
    rollback(run, promoted.name)
    with pytest.raises(
        Invalid, match=f"takes back {promoted.name} from version {version}, and nothing else -> start a new run"
    ):
        rollback(run, other.spec.name)


@pytest.mark.smoke
def test_a_refused_challenger_is_taken_down_and_nothing_else(promoted: PromotedModel) -> None:
    first, version, second = promoted.champion, promoted.version, promoted.new()
    verdicts = (
        Verdict(gate="quality", outcome="refused", reason="too bad"),
        Verdict(gate="parity", outcome="refused", reason="differs"),
    )
    read = second.ready(promoted.report.model_copy(update={"passed": False, "verdicts": verdicts}))
    config = repository(promoted.settings) / promoted.name / "config.pbtxt"
    before = config.read_bytes()
    with pytest.raises(Rejected) as refused:
        second.promote(*read)
    assert [problem.what for problem in refused.value.problems] == ["too bad", "differs"]
    assert config.read_bytes() == before
    assert answers_as(first)
    assert aliases(first) == {CHAMPION: version}
    assert first.run.registry.version_tags(promoted.name, read[0].version)["slipway.state"] == "refused"


def test_a_champion_that_changed_meanwhile_wins(promoted: PromotedModel) -> None:
    version, second, third = promoted.version, promoted.new(), promoted.new()
    late, quick = third.ready(promoted.report), second.ready(promoted.report)
    second.promote(*quick)
    with pytest.raises(Rejected, match=f"became champion after the gates compared with {version}"):
        third.promote(*late)
    assert answers_as(second)
    assert champion(second) == quick[0].version


def flip(folder: Path, model: Path) -> None:
    content = bytearray(model.read_bytes())
    content[40] ^= 1
    model.write_bytes(content)


def add(folder: Path, model: Path) -> None:
    (model.parent / "more.pkl").write_bytes(b"x")


def unlink(folder: Path, model: Path) -> None:
    model.unlink()


def link(folder: Path, model: Path) -> None:
    model.rename(folder / "elsewhere")
    model.symlink_to(folder / "elsewhere")


def test_a_package_that_is_not_whole_is_refused(
    promoted: PromotedModel, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    first, version, second = promoted.champion, promoted.version, promoted.new()
    read = second.ready(promoted.report)
    folder = Path(second.run.store.path(read[1].key))
    complete = shutil.copytree(folder, tmp_path / "complete")
    for damage in (flip, add, unlink, link):
        damage(folder, folder / str(read[0].version) / "model.onnx")
        with subtests.test(damage.__name__):
            with pytest.raises(Invalid, match=r"model\.onnx|more\.pkl|elsewhere"):
                second.promote(*read)
            assert answers_as(first)
        if champion(first) != version:
            pytest.fail(f"a package was promoted that {damage.__name__} had damaged; the other damages are not tried")
        shutil.rmtree(folder)
        shutil.copytree(complete, folder)
    assert second.promote(*read).previous == version  # the damage alone was in the way


def test_a_version_that_does_not_load_leaves_the_old_one(
    promoted: PromotedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, version, second = promoted.champion, promoted.version, promoted.new()
    read = second.ready(promoted.report)
    config = repository(promoted.settings) / promoted.name / "config.pbtxt"
    before = config.read_bytes()
    place = live_module.place

    def spoil(source: Path, target: Path) -> None:
        place(source, target)
        if target == config.parent / str(read[0].version):
            (target / "model.onnx").write_bytes(b"no graph at all")

    monkeypatch.setattr(live_module, "place", spoil)
    with pytest.raises(Invalid, match="load"):
        second.promote(*read)
    assert config.read_bytes() == before
    assert answers_as(first)
    assert champion(first) == version


def ledger(one: Chain, since: int = 0) -> list[tuple[str, int, str, int | None]]:
    """Return the entries after entry `since`, each of which is signed and names the entry before it."""
    store, model, entries = one.run.store, one.spec.name, []
    for number in sequences(store, model)[since:]:
        entry = verified(one.run.settings, store, model, number)
        assert entry.before == (digest_of(store, model, number - 1) if number > 1 else None)
        entries.append((entry.kind, entry.version, entry.run, entry.previous))
    return entries


def copies(one: Chain, version: int) -> list[bool]:
    """Return whether the version's record is named by its tags, is in MLflow, and beside the repository."""
    import mlflow

    registry, store, model = one.run.registry, one.run.store, one.spec.name
    tags = registry.version_tags(model, version)
    key = tags[KEY_TAG]
    entry = read_record(store, model, int(key[-6:]))
    content = store.read(f"{key}/{RECORD}")
    beside = one.run.settings.home / "serving" / key / RECORD

    artifact = mlflow.artifacts.load_text(f"runs:/{entry.mlflow_run}/record/{RECORD}")
    return [tags[TAG] == digest_bytes(content), artifact == content.decode(), beside.read_bytes() == content]


class Killed(BaseException):
    """What no handler but the outermost sees."""


POINTS = {  # where the process dies: the object, the function, before or after it has done its work
    "package kept": ("serving.live", "place", 0, "after"),
    "version placed": ("serving.live", "place", 1, "after"),
    "switch not written": ("serving.live", "replace", 0, "before"),
    "switch written": ("serving.live", "replace", 0, "after"),
    "loaded": ("serving.triton.TritonClient", "load", 0, "after"),
    "number not taken": ("serving.record", "claim_number", 0, "before"),
    "record not kept": ("pipeline.store.Store", "put", 0, "before"),
    "record kept": ("pipeline.store.Store", "put", 0, "after"),
    "record not copied": ("pipeline.registry.Registry", "log_folder", 0, "before"),
    "record not tagged": ("pipeline.registry.Registry", "set_version_tags", 0, "before"),
    "version not described": ("pipeline.registry.Registry", "describe", 0, "before"),
    "tags not set": ("pipeline.registry.Registry", "set_version_tags", 1, "before"),
    "alias not moved": ("pipeline.registry.Registry", "set_alias", 0, "before"),
    "alias moved": ("pipeline.registry.Registry", "set_alias", 0, "after"),
    "challenger not ended": ("pipeline.registry.Registry", "delete_alias", 0, "before"),
}


@contextmanager
def dies(monkeypatch: pytest.MonkeyPatch, point: str, points: dict[str, tuple] = POINTS) -> Iterator[None]:
    """The process dies at this point, once."""
    module, name, skip, when = points[point]
    owner = resolve_name(module)
    original = getattr(owner, name)
    calls = iter(range(100))

    def dying(*arguments: object, **options: object) -> object:
        strikes = next(calls) == skip
        if strikes and when == "before":
            raise Killed
        result = original(*arguments, **options)
        if strikes:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        yield


@pytest.mark.parametrize("point", POINTS)
def test_a_promotion_that_dies_rolls_forward(
    promoted: PromotedModel, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    first, version, count, second = promoted.champion, promoted.version, entries(promoted), promoted.new()
    read = second.ready(promoted.report)
    with dies(monkeypatch, point), pytest.raises(Killed):
        second.promote(*read)
    assert answers_as(first) or answers_as(second)  # never a mix, never nothing
    end = second.promote(*read)
    assert (end.version, end.previous) == (read[0].version, version)
    assert answers_as(second)
    assert aliases(second) == {CHAMPION: end.version}
    assert ledger(second, count) == [("promotion", end.version, second.run.id, version)]
    assert end.record == record_key(promoted.name, count + 1)
    assert copies(second, end.version) == [True, True, True]


REFUSED = {
    "refusal not decided": ("pipeline.store.Store", "write", 0, "before"),
    "refusal decided": ("pipeline.store.Store", "write", 0, "after"),
    "challenger ended": ("serving.embedded.EmbeddedPlane", "end_challengers", 0, "after"),
    "number taken": ("serving.record", "claim_number", 0, "after"),
    "record not kept": POINTS["record not kept"],
    "record kept": POINTS["record kept"],
    "record not tagged": POINTS["record not tagged"],
    "state not set": ("pipeline.registry.Registry", "set_version_tags", 1, "before"),
    "challenger's alias there": POINTS["challenger not ended"],
}


@pytest.mark.parametrize("point", REFUSED)
def test_a_refusal_that_dies_is_recorded_once(
    promoted: PromotedModel, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    first, version, count, second = promoted.champion, promoted.version, entries(promoted), promoted.new()
    verdict = Verdict(gate="quality", outcome="refused", reason="too bad")
    read = second.ready(promoted.report.model_copy(update={"passed": False, "verdicts": (verdict,)}))
    with dies(monkeypatch, point, REFUSED), pytest.raises(Killed):
        second.promote(*read)
    for _ in range(2):
        with pytest.raises(Rejected, match="too bad"):
            second.promote(*read)
    refused = read[0].version
    assert ledger(second, count) == [("refusal", refused, second.run.id, version)]
    assert copies(second, refused) == [True, True, True]
    assert aliases(second) == {CHAMPION: version}
    assert answers_as(first)


def test_a_refusal_of_the_canary_is_not_asked_again(promoted: PromotedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    first, version, count, second = promoted.champion, promoted.version, entries(promoted), promoted.new()
    read = second.ready(promoted.report)

    def failing(*_: object) -> None:
        raise Rejected("half of the canary's requests failed")

    with monkeypatch.context() as patch, dies(monkeypatch, "record not kept"), pytest.raises(Killed):
        patch.setattr(EmbeddedPlane, "switch", failing)
        second.promote(*read)
    with pytest.raises(Rejected, match="half of the canary's requests failed"):
        second.promote(*read)
    assert ledger(second, count) == [("refusal", read[0].version, second.run.id, version)]
    assert answers_as(first)


def test_a_promotion_that_others_overtook_while_it_was_dead(
    promoted: PromotedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry is not the last any more: what it does when it goes on has an entry of its own."""
    count, second, third, fourth = entries(promoted), promoted.new(), promoted.new(), promoted.new()
    read, late = second.ready(promoted.report), third.ready(promoted.report)
    dead, refused = read[0].version, late[0].version
    with dies(monkeypatch, "record kept"), pytest.raises(Killed):
        second.promote(*read)
    with pytest.raises(Rejected, match=f"version {dead} became champion"):  # by the ledger; the alias was not moved
        third.promote(*late)
    last = fourth.promote(*fourth.ready(PASSED.model_copy(update={"champion": dead}))).version
    with pytest.raises(Rejected, match=f"version {last} became champion"):
        second.promote(*read)
    assert answers_as(fourth)
    kinds = [entry[:2] for entry in ledger(second, count)]
    assert kinds == [("promotion", dead), ("refusal", refused), ("promotion", last), ("refusal", dead)]
    assert champion(second) == last


def test_a_deleted_alias_brings_no_model_past_the_champion(make: Callable[..., Chain]) -> None:
    first, second = make("r1", 5.0), make("r2", -3.0)
    first.promote(*first.ready())
    first.run.registry.delete_alias(first.spec.name, CHAMPION)
    model = second.register()
    report = second.gate(model, second.rollout(model, second.package(model)))
    EmbeddedPlane(first.run.settings).end_challengers(first.spec.name)
    assert report.champion == 1
    assert not report.passed
    third = make("r3", -2.0)
    with pytest.raises(Rejected, match="version 1 became champion"):
        third.promote(*third.ready())
    assert answers_as(first)


def test_nothing_is_taken_back_by_what_others_wrote(promoted: PromotedModel) -> None:
    second, name = promoted.new(), promoted.name
    version = second.promote(*second.ready(promoted.report)).version
    third = promoted.new()
    refused = third.ready(promoted.report.model_copy(update={"passed": False}))
    with pytest.raises(Rejected):
        third.promote(*refused)
    model, package, *_ = refused
    Live(promoted.settings, name).keep(Path(promoted.store.path(package.key)), model.version, package.digest)
    way = Way(
        champion=Version(name, version, "", ""),
        back=Version(name, model.version, package.digest, model.onnx_digest),
    )
    for kind, text in (("way", way.model_dump_json()), ("way", "{}"), ("rollback", None)):
        run = back_run(promoted.settings)
        if text is None:  # as if it were done
            ref = PromotionRef(name=name, version=model.version, digest="", previous=version, http="h:1", grpc="h:2")
            run.finish("rollback", ref, 0.0)
        else:
            run.store.write(f"{run.key}/{kind}.json", text.encode())
        with pytest.raises(Invalid, match="start a new run"):
            rollback(run, name)
    assert answers_as(second)


def test_a_waiver_that_ends_before_the_promotion_counts_no_longer(
    make: Callable[..., Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make("r1", 1.0)
    waiver = Waiver(gate="calibration", by="Ada", reason="nobody is perfect", until=date(2026, 1, 31))
    waived = Verdict(gate="calibration", outcome="refused", reason="it is off", waiver=waiver)
    read = one.ready(PASSED.model_copy(update={"verdicts": (waived,)}))
    monkeypatch.setattr(Run, "now", lambda _: "2026-02-01T00:00:00+00:00")
    with pytest.raises(Rejected, match="it is off; the waiver of Ada expired on 2026-01-31"):
        one.promote(*read)


def test_a_promotion_killed_for_real_leaves_no_lock(promoted: PromotedModel, tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from pipeline.settings import Settings
        from serving.live import Live
        with Live(Settings.model_validate_json(sys.argv[1]), sys.argv[2]).alone():
            Path(sys.argv[3]).touch()
            time.sleep(60)
    """
    held = tmp_path / "held"
    arguments = (promoted.settings.model_dump_json(), promoted.name, str(held))
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments])
    try:
        wait_for(held.exists, "the lock is held")
    finally:
        child.kill()
        child.wait()
    second = promoted.new()
    second.promote(*second.ready(promoted.report))
    assert answers_as(second)


def test_two_promotions_do_not_overlap(make: Callable[..., Chain], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make("r1", 1.0), make("r2", 3.0)
    monkeypatch.setattr(live_module, "LOCK_S", 0.2)
    with Live(first.run.settings, first.spec.name).alone(), pytest.raises(Unavailable, match="another promotion"):
        first.promote(*first.ready())
    both = [first.ready(), second.ready()]
    monkeypatch.setattr(live_module, "LOCK_S", 60.0)
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(one.promote, *read) for one, read in zip((first, second), both, strict=True)]
        outcomes = [end.exception() for end in ends]
    assert [type(outcome) for outcome in outcomes].count(Rejected) == 1  # the later one compared with no champion
    winner = (first, second)[[outcome is None for outcome in outcomes].index(True)]
    assert answers_as(winner)


def test_a_champion_that_nothing_serves_is_placed_again(promoted: PromotedModel) -> None:
    serving = plane(promoted.settings)
    with TritonClient(promoted.settings.triton_grpc, 10) as client:
        client.unload(promoted.name)
    shutil.rmtree(repository(promoted.settings) / promoted.name)
    for _ in range(2):
        serving.restore(version_of(promoted.champion.run.registry, promoted.name, promoted.version))
        assert answers_as(promoted.champion)


@pytest.mark.parametrize(
    "point",
    ["switch written", "loaded", "number not taken", "record not kept", "record kept", "record not tagged",
     "tags not set", "alias not moved", "alias moved"],
)  # fmt: skip
def test_a_way_back_that_dies_goes_on_under_its_run_id(
    promoted: PromotedModel, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    first, version, count, second = promoted.champion, promoted.version, entries(promoted), promoted.new()
    replaced = second.promote(*second.ready(promoted.report)).version
    run = back_run(promoted.settings)
    with dies(monkeypatch, point), pytest.raises(Killed):
        rollback(run, promoted.name)
    assert answers_as(first) or answers_as(second)
    for _ in range(2):  # and once more changes nothing
        end = rollback(run, promoted.name)
        assert (end.version, end.previous) == (version, replaced)
        assert answers_as(first)
        assert champion(first) == version
    assert first.run.registry.version_tags(promoted.name, replaced)["slipway.state"] == "rolled back"
    assert ledger(first, count + 1) == [("rollback", version, run.id, replaced)]
    assert end.record == record_key(promoted.name, count + 2)


def test_the_way_back_is_the_ledgers_whatever_tags_and_alias_have_become(make: Callable[..., Chain]) -> None:
    first, second, third = make("r1", 1.0), make("r2", 3.0), make("r3", 2.0)
    first.promote(*first.ready())
    second.promote(*second.ready(PASSED.model_copy(update={"champion": 1})))
    third.register()
    registry, name = first.run.registry, first.spec.name
    registry.set_alias(name, CHAMPION, 3)
    registry.set_version_tags(name, 2, {"slipway.previous": "3"})
    registry.set_version_tags(name, 1, {"slipway.package": "9f" * 32, "slipway.onnx": "9f" * 32})
    end = rollback(back_run(first.run.settings), name)
    assert (end.version, end.previous, champion(first)) == (1, 2, 1)
    assert answers_as(first)


def test_nothing_moves_on_the_word_of_a_ledger_that_somebody_changed(make: Callable[..., Chain]) -> None:
    first, second = make("r1", 1.0), make("r2", 3.0)
    first.promote(*first.ready())
    second.promote(*second.ready(PASSED.model_copy(update={"champion": 1})))
    path = Path(first.run.store.path(record_key(first.spec.name, 1))) / RECORD
    path.write_bytes(path.read_bytes().replace(b'"r1"', b'"r9"'))
    with pytest.raises(Invalid, match="was changed, or taken out"):
        rollback(back_run(first.run.settings), first.spec.name)
    third = make("r3", 2.0)
    with pytest.raises(Invalid, match="was changed, or taken out"):
        third.promote(*third.ready(PASSED.model_copy(update={"champion": 2})))
    assert answers_as(second)
    assert (champion(second), sequences(second.run.store, second.spec.name)) == (2, (1, 2))


@pytest.mark.parametrize("name", ["never_seen", "No such model"])
def test_rollback_of_what_was_never_promoted(stack_settings: Settings, name: str) -> None:
    with pytest.raises(Invalid, match=f"no version of '{name}' was ever promoted"):
        rollback(back_run(stack_settings), name)
    assert not (stack_settings.home / "serving" / "locks" / f"{name}.lock").exists()


def test_no_answer_from_triton_is_retried_and_moves_nothing(promoted: PromotedModel) -> None:
    second = promoted.new()
    read, run = second.ready(promoted.report), second.run
    away = run.settings.model_copy(update={"triton_grpc_port": 9, "timeout_s": 1.0})
    second.run = type(run)(run.id, run.pipeline, away, run.spec_path)
    with pytest.raises(Unavailable, match="Triton does not answer"):
        second.promote(*read)
    config = Live(promoted.settings, promoted.name).as_kept()
    assert config["parameters"]["version"]["string_value"] == str(promoted.version)
