"""One test over many cases: each case that fails is reported by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import pytest

Case = TypeVar("Case")


def each(
    cases: Mapping[str, Case], prepare: Callable[[], object] | None = None
) -> Callable[[Callable[[Case], None]], Callable[[pytest.Subtests], None]]:
    """Make one test of a function that checks one case; `prepare` is called before the first case.

    The test has the marks of the function.
    """
    assert cases, "no case: the test would check nothing"

    def decorate(check: Callable[[Case], None]) -> Callable[[pytest.Subtests], None]:
        def check_each(subtests: pytest.Subtests) -> None:
            if prepare is not None:
                prepare()
            for name, case in cases.items():
                with subtests.test(name):
                    check(case)

        for name in ("__name__", "__qualname__", "__doc__", "__module__"):  # pytest would follow __wrapped__
            setattr(check_each, name, getattr(check, name))
        check_each.__dict__.update({name: value for name, value in vars(check).items() if name != "__wrapped__"})
        return check_each

    return decorate
