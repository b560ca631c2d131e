"""Reading a file of policy: what the platform team decides for the cluster, and no spec can change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from pipeline.errors import Invalid, Problem
from pipeline.frozen import Frozen

Policy = TypeVar("Policy", bound=Frozen)


def read_policy(path: Path, kind: type[Policy], setting: str) -> Policy:
    """The policy that the file at `path`, named by `setting`, holds.

    Raises:
        Invalid: it is not there or does not hold what it should; names each mistake. A retry does not help.
    """
    remedy = f"the chart writes it: look at its ConfigMap, or set {setting}"
    try:
        return kind.model_validate_json(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise Invalid(f"the policy cannot be read: {reason}", str(path), remedy) from error
    except ValidationError as error:
        problems = []
        for item in error.errors():
            place = f"{path}: {'.'.join(map(str, item['loc'])) or 'policy'}"
            value = "" if isinstance(item["input"], dict | list) else f" (value {item['input']!r})"
            problems.append(Problem(f"{item['msg'].removeprefix('Value error, ')}{value}", place, remedy))
        raise Invalid(problems) from error
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"the policy is no YAML: {' '.join(str(error).split())}", str(path), remedy) from error
