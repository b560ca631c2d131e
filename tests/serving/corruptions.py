"""A model, what may go wrong with its graph or in its training, and the gates' verdicts on what Triton serves of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache

import numpy as np
import onnx
import pandas as pd
import xgboost as xgb
from onnx import ModelProto, helper, numpy_helper

from pipeline.columns import RowSchema
from pipeline.dataset import held_out
from pipeline.digest import digest_bytes
from pipeline.refs import Validation, Verdict
from pipeline.spec import PipelineSpec, XGBoost
from pipeline.spec_file import parse_spec
from pipeline.target import encode_target
from pipeline.tensors import to_tensors
from serving.gate import GATES
from serving.gates.base import Champion, Evidence, judge
from serving.gates.latency import LatencyGate
from serving.model_config import MODEL_FILE, model_config
from tests.serving.real_triton import RealTriton
from tests.support.batches import infer_rows
from training.features import Features, fit_features
from training.models.base import Fold, Native, Params
from training.models.boosted import Boosted, BoostedTrainer
from training.onnx_model import build
from training.tune import tune

SPEC: PipelineSpec = parse_spec(
    """version: 1
name: healthy
task: {kind: binary}
data: {source: rows.csv, target: y, drop: [region]}
candidates: [{kind: xgboost, trials: 1, folds: 3}]
gates:
  champion: {margin: 0.02}
  slices: {columns: [c, region], fairness: {demographic_parity_difference: 0.7}}
  robustness: {directions: [{column: a, answer: rises, share: 0.8}]}
""",
    "corruptions",
)
LOG = logging.getLogger("corruptions")


def table(rows: int = 1900) -> pd.DataFrame:
    """Rows whose class is known to a point: the best model there is has an AUC of about 0.9."""
    draw = np.random.default_rng(8)
    a, b, c = draw.normal(size=rows), draw.normal(5, 3, size=rows), draw.choice(["u", "v", "w", "x"], rows)
    effect = pd.Series(c).map({"u": -2.0, "v": -0.5, "w": 0.5, "x": 2.0}).to_numpy()
    yes = draw.random(rows) < 1 / (1 + np.exp(-(1.6 * a - 0.4 * (b - 5) + effect)))
    region = draw.choice(["north", "south"], rows)
    return pd.DataFrame({"a": a, "b": b, "c": c, "region": region, "y": np.where(yes, "yes", "no")})


@dataclass(frozen=True)
class World:
    """The rows, split, and what training makes of them."""

    schema: RowSchema
    train: pd.DataFrame
    held: pd.DataFrame
    features: Features
    params: Params
    length: int
    validation: Validation

    @property
    def trainer(self) -> BoostedTrainer:
        assert isinstance(SPEC.candidates[0], XGBoost)
        return BoostedTrainer.of(SPEC.candidates[0], self.features, 1)

    def fit(self, rows: pd.DataFrame, length: int = 0, flipped: bool = False, **params: float) -> Native:
        """A model fitted on these rows as the step trains it, but for what is said."""
        x, y = self.features.matrix(to_tensors(rows, self.schema)), encode_target(rows, self.schema)
        fold = Fold(x, 1 - y if flipped else y)
        return Native(self.features, self.trainer.fit(fold, self.params | params, 7, length or self.length, None).model)


@cache
def world() -> World:
    typed, schema, _ = infer_rows(table(), SPEC.data, SPEC.task, "rows", SPEC.gates)
    mask = held_out(typed.drop(columns="region"), SPEC.split)
    train, held = (typed[side].reset_index(drop=True) for side in (~mask, mask))
    features = fit_features(train, schema)
    x, y = features.matrix(to_tensors(train, schema)), encode_target(train, schema)
    assert isinstance(SPEC.candidates[0], XGBoost)
    trainer = BoostedTrainer.of(SPEC.candidates[0], features, 1)
    tuned = tune(trainer, SPEC.candidates[0], schema, x, y, SPEC.primary, SPEC.seed, LOG)
    validation = Validation(value=tuned.value, rows=tuned.rows)
    return World(schema, train, held, features, tuned.params, tuned.length, validation)


@cache
def healthy() -> Native:
    return world().fit(world().train)


@cache
def champion() -> Native:
    """What serves: an earlier model, of half the rows."""
    return world().fit(world().train.iloc[::2])


# After the export


def trees(graph: ModelProto) -> dict[str, onnx.AttributeProto]:
    (node,) = [node for node in graph.graph.node if node.op_type.startswith("TreeEnsemble")]
    return {attribute.name: attribute for attribute in node.attribute}


def wrong_base_score(graph: ModelProto) -> None:
    base = trees(graph)["base_values"]
    base.floats[:] = [value + 2.0 for value in base.floats]


def dropped_sigmoid(graph: ModelProto) -> None:
    assert trees(graph)["post_transform"].s == b"LOGISTIC"
    trees(graph)["post_transform"].s = b"NONE"


def columns_swapped(graph: ModelProto) -> None:
    for node in graph.graph.node:
        node.input[:] = ["swapped" if name == "numeric" else name for name in node.input]
    graph.graph.initializer.append(numpy_helper.from_array(np.array([1, 0]), "other_order"))
    graph.graph.node.insert(0, helper.make_node("Gather", ["numeric", "other_order"], ["swapped"], axis=1))


def stale_categories(graph: ModelProto) -> None:
    """The map of an earlier snapshot, in which other categories were frequent."""
    (node,) = [node for node in graph.graph.node if node.op_type == "LabelEncoder"]
    (keys,) = [attribute for attribute in node.attribute if attribute.name == "keys_strings"]
    keys.strings[:] = [*keys.strings[1:], keys.strings[0]]


def answered_by(graph: ModelProto, operator: str, *constants: float) -> None:
    """The answer, bent by one more operator."""
    last = graph.graph.node[-1]
    names = [f"constant{at}" for at in range(len(constants))]
    for name, value in zip(names, constants, strict=True):
        graph.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))
    bent = helper.make_node(operator, [last.input[0], *names], [last.output[0]])
    graph.graph.node.remove(last)
    graph.graph.node.append(bent)


def not_a_number(graph: ModelProto) -> None:
    """The square root of what is negative, for rows of which the model is sure."""
    answered_by(graph, "Sub", 0.2)
    last = graph.graph.node[-1]
    name, last.output[0] = last.output[0], "below"
    graph.graph.node.append(helper.make_node("Sqrt", ["below"], [name]))


def always_the_same(graph: ModelProto) -> None:
    answered_by(graph, "Clip", 0.5, 0.5)


def no_way_for_missing(graph: ModelProto) -> None:
    """An answer that needs every number: no held-out row lacks one, so that no comparison on them shows it."""
    answered_by(graph, "Add")
    last, inserted = graph.graph.node[-1], graph.graph.initializer
    inserted.append(numpy_helper.from_array(np.array(0, dtype=np.float32), "nought"))
    inserted.append(numpy_helper.from_array(np.array([0]), "first"))
    graph.graph.node.insert(0, helper.make_node("Gather", ["numeric", "first"], ["needed"], axis=1))
    graph.graph.node.insert(1, helper.make_node("Mul", ["needed", "nought"], ["added"]))
    last.input.append("added")


# In training


def base_score_of_other_rows() -> Native:
    """The share of a class where it was rare, in a model of where it is not."""
    model = json.loads(healthy().model.booster.save_raw("json"))  # type: ignore[attr-defined]
    model["learner"]["learner_model_param"]["base_score"] = "[2E-2]"
    booster = xgb.Booster(model_file=bytearray(json.dumps(model).encode()))
    return Native(world().features, Boosted(booster, "binary", world().features.kinds))


def reordered() -> Native:
    """Fitted on columns in one order, asked in another."""
    schema = world().schema
    a, b, *rest = schema.columns
    features = world().features.model_copy(update={"row_schema": schema.model_copy(update={"columns": (b, a, *rest)})})
    x = features.matrix({**to_tensors(world().train, features.row_schema)})
    fitted = world().trainer.fit(Fold(x, encode_target(world().train, schema)), world().params, 7, world().length, None)
    return Native(world().features, fitted.model)


def with_stale_categories() -> Native:
    """Fitted with the codes of one snapshot, asked with those of another."""
    known = world().features.categories["c"]
    return Native(world().features.model_copy(update={"categories": {"c": (*known[1:], known[0])}}), healthy().model)


def of_flipped_labels() -> Native:
    return world().fit(world().train, flipped=True)


def of_the_held_out_rows() -> Native:
    """Grown until it remembers them."""
    rows = pd.concat([world().train, world().held], ignore_index=True)
    return world().fit(
        rows,
        length=400,
        max_depth=10,
        min_child_weight=0.5,
        subsample=1.0,
        colsample_bytree=1.0,
        gamma=0,
        reg_lambda=0.1,
    )


def that_learnt_nothing() -> Native:
    """Steps of no length: every row gets the classes' share."""
    return world().fit(world().train, length=3, learning_rate=0.0)


def of_a_group_labelled_wrongly() -> Native:
    """The rows of one category came with labels upside down."""
    rows = world().train.copy()
    rows.loc[rows["c"] == "x", "y"] = rows.loc[rows["c"] == "x", "y"].map({"yes": "no", "no": "yes"})
    return world().fit(rows)


def judged(
    triton: RealTriton, name: str, native: Native, corrupt: Callable[[ModelProto], None] | None
) -> dict[str, Verdict]:
    """Every gate's verdict on the model as a real server answers; time is not judged here."""
    graph = onnx.load_from_string(build(native, "xgboost"))
    if corrupt:
        corrupt(graph)
    folder = triton.repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / MODEL_FILE).write_bytes(graph.SerializeToString())
    (folder / "config.pbtxt").write_text(model_config(name, 1, world().schema, SPEC.serving, {}))
    rows, schema = world().held, world().schema
    tensors = to_tensors(rows, schema)
    with triton.client() as client:
        client.load(name)
        found = Evidence(
            spec=SPEC.model_copy(update={"name": name}),
            schema=schema,
            tensors=tensors,
            target=encode_target(rows, schema),
            native=native.predict(tensors),
            served=client.replay(name, tensors, schema.output, "1"),
            onnx_digest=digest_bytes(graph.SerializeToString()),
            champion=Champion(version=1, onnx_digest="another", answers=champion().predict(tensors)),
            challenger=client,
            version=1,
            rows=rows,
            validation=world().validation,
        )
        verdicts = judge([kind(found) for kind in GATES if kind is not LatencyGate], date(2026, 1, 1))
        client.unload(name)
    return {verdict.gate: verdict for verdict in verdicts}


def refused(
    triton: RealTriton, name: str, native: Native, corrupt: Callable[[ModelProto], None] | None = None
) -> dict[str, str]:
    """Return each gate that refuses the model as the server answers for it, with its reason."""
    verdicts = judged(triton, name, native, corrupt)
    return {name: verdict.reason for name, verdict in verdicts.items() if not verdict.passed}
