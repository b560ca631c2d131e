"""A full disk, under the store and under what serves: a sentence, nothing half-written, and on it goes with room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import Invalid
from pipeline.graph import STEPS
from pipeline.refs import PromotionRef
from pipeline.run import Run
from tests.chaos.children import Ended
from tests.chaos.lines import agreed, known, promoted, ready, weight
from tests.chaos.world import World, results
from tests.serving.packed import asking

pytestmark = pytest.mark.stack


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of a few megabytes at a folder, with what the folder holds."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left on the disk."""
    filler = disk / ".filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    try:
        yield
    finally:
        filler.unlink()


def is_told(ended: Ended) -> None:
    assert ended.code == 1, ended.said
    assert "Traceback" not in ended.said, ended.said
    assert "the disk is full -> free some space and run again; nothing was lost" in ended.said


def nothing_is_half(run: Run, disk: Path) -> None:
    """Whatever has a name is whole: references can be read, nothing lies about under a passing name."""
    for path in disk.rglob("*"):
        if path.is_file() and path.name != ".filler" and not path.name.endswith(".lock"):
            assert path.stat().st_size > 0, path
            assert not path.name.startswith("."), path
    for path in Path(run.store.path(run.key)).glob("*.json"):
        if path.name != "spec.json":
            assert run.envelope(path.stem) is not None


def test_a_store_whose_disk_is_full(world: World, calm: dict[str, float], tmp_path: Path) -> None:
    name = "no_room"
    world.spec(name)
    with small_disk(tmp_path / "store") as disk:
        settings = world.settings.model_copy(update={"store": str(disk)})
        run = Run("r1", name, settings, world.settings.specs_dir / f"{name}.yaml")
        for step in STEPS:
            with full(disk):
                is_told(world.step(step.name, name, "r1", settings=settings))
            nothing_is_half(run, disk)
            ended = world.step(step.name, name, "r1", settings=settings)
            assert ended.code == 0, ended.said
        assert results(run) == results(world.run("calm", "r1"))


def test_what_serves_on_a_disk_that_is_full(world: World) -> None:
    name = "no_room_to_serve"
    promoted(world, name, 1, None)
    ready(world, name, "r2", weight(2), 1)
    places = world.settings.home / "serving"
    for place in (places / "packages" / name, places / "repository" / name):
        held = [(path.relative_to(place), path.read_bytes()) for path in sorted(place.rglob("*")) if path.is_file()]
        with small_disk(place) as disk:
            for path, content in held:
                (disk / path).parent.mkdir(parents=True, exist_ok=True)
                (disk / path).write_bytes(content)
            with asking(world.settings, name, pause_s=0.005) as client:
                with full(disk):
                    is_told(world.step("promote", name, "r2"))
                    assert agreed(world, name) == 1
                assert set(client.heard()) == {known(weight(1))}
            assert client.failures == []
            nothing_is_half(world.run(name, "r2"), disk)
    with pytest.raises(Invalid, match="left no reference"):
        world.run(name, "r2").ref(PromotionRef)
    ended = world.step("promote", name, "r2")
    assert ended.code == 0, ended.said
    assert agreed(world, name) == 2
