"""`python -m serving.collect`: delete versions of the cluster whose time is up. A CronJob of the chart."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import typer

from pipeline.errors import SlipwayError
from pipeline.settings import read_settings
from serving.cluster_plane import ClusterPlane


def main() -> None:
    """Delete what neither serves nor is kept any longer; say what it was."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        gone = ClusterPlane(read_settings()).collect(datetime.now(UTC))
    except SlipwayError as error:
        for problem in error.problems:
            sys.stderr.write(f"{error.title}: {problem}\n")
        raise typer.Exit(error.exit_code) from None
    sys.stdout.write("".join(f"deleted {name}\n" for name in gone))


if __name__ == "__main__":
    typer.run(main)
