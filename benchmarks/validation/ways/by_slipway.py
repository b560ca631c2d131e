"""Slipway's check of a Parquet file: the suite is read as the step reads it, the rows are judged where they lie."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from feature_checks.judge import run_suite
from feature_checks.parquet import columns_of
from feature_checks.suite import validate_suite
from pipeline.store import Store


def main(path: Path, threads: int, suites: Path) -> None:
    begin = time.perf_counter()
    names = tuple(column.name for column in columns_of(path))
    suite = validate_suite(suites, "bench", names, Store(str(suites / "store")))
    outcomes, result = run_suite(suite, path, threads)
    engines = {one["meta"]["engine"] for one in result["results"]}
    verdicts = [outcome.passed for outcome in outcomes]
    print(json.dumps({"judging_s": time.perf_counter() - begin, "verdicts": verdicts, "engines": sorted(engines)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
