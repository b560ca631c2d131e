"""What every command shares: settings, consoles, errors as sentences and exit codes, specs by name."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.errors import Invalid, SlipwayError
from pipeline.settings import Settings, read_settings, unknown_variables

Spec = Annotated[
    str, typer.Argument(metavar="SPEC", help="spec file, or name of a spec in dags/specs", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="print JSON for machines")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no log lines")]


@dataclass(frozen=True)
class Session:
    """What every command has: settings, a console for people (stderr with --json), and the way to print a result."""

    settings: Settings
    console: Console
    as_json: bool

    def result(self, value: dict[str, Any], show: Callable[[], None]) -> None:
        """Print the result: as JSON for machines, else as `show` does."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")
        else:
            show()


@contextmanager
def session(as_json: bool) -> Iterator[Session]:
    """Settings and consoles; a failure is told in sentences, or as JSON, and becomes the exit code."""
    errors = Console(stderr=True, highlight=False)
    for problem in unknown_variables():
        errors.print(f"warning: {problem}", markup=False, soft_wrap=True)
    try:
        yield Session(read_settings(), errors if as_json else Console(highlight=False), as_json)
    except SlipwayError as error:
        if as_json:
            problems = [vars(problem) for problem in error.problems]
            sys.stdout.write(json.dumps({"error": error.title, "problems": problems}, indent=1) + "\n")
        for problem in error.problems:
            errors.print(f"[bold red]{error.title}[/]: ", end="")
            errors.print(str(problem), markup=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        errors.print("interrupted; what was finished is kept")
        raise typer.Exit(130) from None


def room(name: str) -> Any:
    """A function of a room by `module:name`: the kernel imports no room, and a command only what it uses."""
    return resolve_name(name)


def find_spec(settings: Settings, spec: str) -> Path:
    """The file of a spec given as path or name. Raises Invalid when there is none."""
    path = Path(spec)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path.absolute()
    named = settings.specs_dir / f"{spec}.yaml"
    if not named.is_file():
        known = sorted(item.stem for item in settings.specs_dir.glob("*.yaml"))
        raise Invalid(
            f"there is no spec {spec!r}",
            str(settings.specs_dir),
            f"name one of: {', '.join(known)}" if known else "`slipway init DATA --target COLUMN` writes one",
        )
    return named


def log_to(console: Console, quiet: bool) -> None:
    """Slipway's log lines on the console, above the progress."""
    from rich.logging import RichHandler  # noqa: PLC0415

    handler = RichHandler(console=console, show_path=False, show_level=False, markup=False, log_time_format="%X")
    logger = logging.getLogger("slipway")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
