"""`python -m serving.fetch`: a version's package from the store into a folder, by digest. A pod's init container."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import Invalid, SlipwayError
from pipeline.settings import Settings, read_settings
from pipeline.store import Store
from serving.package import verify
from serving.places import place


def fetch(store: Store, settings: Settings, key: str, digest: str, folder: Path) -> None:
    """Put the package of this digest at `folder`, whole and verified, or leave nothing there.

    Raises:
        Invalid: the store has no such package, or another one. A retry does not help.
        Unavailable: the store does not answer, or the disk is full. A retry helps.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of an init container that was interrupted
    try:
        with store.local(key) as source:
            place(source, folder)
        verify(folder, digest, settings)
    except FileNotFoundError as error:
        raise Invalid("the store has no such package", store.path(key), "run the pipeline again") from error
    except Invalid as error:  # says where the package is, not where its copy was
        shutil.rmtree(folder, ignore_errors=True)
        raise Invalid([replace(problem, where=store.path(key)) for problem in error.problems]) from error


def main(
    key: Annotated[str, typer.Option(help="key of the package in the store")],
    digest: Annotated[str, typer.Option(help="digest of its manifest")],
    name: Annotated[str, typer.Option(help="name of the model")],
    to: Annotated[Path, typer.Option(help="the model repository")],
) -> None:
    """Fetch a package, or say in sentences why not."""
    try:
        settings = read_settings()
        fetch(Store(settings.store), settings, key, digest, to / name)
    except SlipwayError as error:
        for problem in error.problems:
            sys.stderr.write(f"{error.title}: {problem}\n")
        raise typer.Exit(error.exit_code) from None


if __name__ == "__main__":
    typer.run(main)
