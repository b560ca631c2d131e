"""Airflow's one entry: every spec of the specs folder as a DAG (airflow looks for the words airflow and dag)."""

from __future__ import annotations

import re

from airflow.sdk import DAG

from dags.factory import build, build_invalid, build_rollback
from pipeline.errors import Invalid, SlipwayError
from pipeline.run import ROLLBACK
from pipeline.settings import Settings, read_settings
from pipeline.spec_file import load_spec


def load(settings: Settings) -> dict[str, DAG]:
    """DAG by name; a spec that cannot be read, or that takes another's name, is a DAG that says so."""
    dags: dict[str, DAG] = {ROLLBACK: build_rollback(settings)}
    for path in sorted(settings.specs_dir.glob("*.yaml")):
        try:
            spec = load_spec(path)
            if spec.name in dags:
                raise Invalid(f"the name {spec.name!r} is taken", str(path), "rename it")
            dags[spec.name] = build(spec, path, settings)
        except SlipwayError as error:
            name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
            while name in dags:
                name += "_invalid"
            dags[name] = build_invalid(name, error, path)
    return dags


globals().update(load(read_settings()))
