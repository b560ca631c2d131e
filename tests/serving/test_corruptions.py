"""Corruptions of a real model, planted where they happen, are each refused by the gate that is there for them.

One model is trained, exported and served by a real Triton. Some corruptions befall its graph after the export; others its
training, so that the graph is true to the model and parity has nothing to say.
"""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.serving.real_triton import RealTriton

AFTER_EXPORT = [
    ("wrong_base_score", "parity"),
    ("dropped_sigmoid", "calibration"),
    ("columns_swapped", "parity"),
    ("stale_categories", "parity"),
    ("not_a_number", "quality"),
    ("always_the_same", "quality"),
]

IN_TRAINING = [
    ("base_score_of_other_rows", "calibration"),
    ("reordered", "champion"),
    ("with_stale_categories", "champion"),
    ("of_flipped_labels", "quality"),
    ("of_the_held_out_rows", "leakage"),
    ("that_learnt_nothing", "quality"),
    ("of_a_group_labelled_wrongly", "slices"),
]


@pytest.fixture(scope="module")
def planted() -> ModuleType:
    """The functions of `tests.serving.corruptions`, which need XGBoost and DeepEval."""
    from tests.serving import corruptions

    return corruptions


def test_a_healthy_model_passes_every_gate(shared_triton: RealTriton, planted: ModuleType) -> None:
    assert planted.refused(shared_triton, "healthy", planted.healthy()) == {}


@pytest.mark.parametrize(("corrupt", "gate"), AFTER_EXPORT)
def test_a_graph_that_was_corrupted_is_refused(
    shared_triton: RealTriton, planted: ModuleType, corrupt: str, gate: str
) -> None:
    found = planted.refused(shared_triton, corrupt, planted.healthy(), getattr(planted, corrupt))
    assert gate in found
    assert "parity" in found  # whatever befalls a graph, it is not the model any longer


@pytest.mark.parametrize(("train", "gate"), IN_TRAINING)
def test_a_model_that_was_trained_wrongly_is_refused(
    shared_triton: RealTriton, planted: ModuleType, train: str, gate: str
) -> None:
    found = planted.refused(shared_triton, train, getattr(planted, train)())
    assert gate in found, found
    assert "parity" not in found  # the server answers what the model does


def test_what_no_held_out_row_shows_is_found_by_bending_them(shared_triton: RealTriton, planted: ModuleType) -> None:
    found = planted.refused(shared_triton, "no_way_for_missing", planted.healthy(), planted.no_way_for_missing)
    assert list(found) == ["robustness"]
    assert "fields missing" in found["robustness"]
