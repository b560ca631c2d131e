"""A spec is read whole or refused with every mistake at its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.commands.author import spec_schema
from pipeline.errors import Invalid
from pipeline.mask import mask
from pipeline.spec import Overrides, PipelineSpec
from pipeline.spec_file import load_spec, parse_overrides, parse_spec

ROOT = Path(__file__).resolve().parents[2]
CONFS = ROOT / "tests" / "confs"
GOOD = """version: 1
name: demo
task: {kind: binary}
data: {source: rows.csv, target: y}
candidates: [{kind: xgboost}, {kind: torch, name: net}]
"""


def test_a_short_spec_has_every_default() -> None:
    spec = parse_spec(GOOD, "s.yaml")
    assert spec.primary == "roc_auc"
    assert [candidate.name for candidate in spec.candidates] == ["xgboost", "net"]
    assert spec.digest == parse_spec(GOOD + "# a comment\n", "s.yaml").digest
    assert spec.digest != parse_spec(GOOD.replace("target: y", "target: z"), "s.yaml").digest


def test_small_numbers_as_people_write_them() -> None:
    assert parse_spec(GOOD + "export: {atol: 1e-7, rtol: 0}\n", "s.yaml").export.atol == 1e-7


@pytest.mark.parametrize(
    ("engine", "more", "said"),
    [
        ("{kind: rya}", "", "candidates.0.engine: Input tag 'rya' found using 'kind'"),
        ("{kind: ray}", "", "candidates.0.engine.workers: the key 'workers' is missing"),
        ("{kind: ray, workers: 2, gpus: 1}", "", "candidates.0.engine.gpus: unknown key 'gpus'"),
        ("{kind: ray, workers: 2, gpus_per_worker: 2}", "", "less than or equal to 1 (value 2)"),
        ("{kind: ray, workers: 2}", ", device: cuda", "device is cuda and engine.gpus_per_worker is 0: write 1"),
        ("{kind: ray, workers: 2, gpus_per_worker: 1}", ", device: cpu", "device is cpu and engine.gpus_per_worker is 1"),
        ("{kind: ray, workers: 2}", ", resources: {cpu: 2}", "write engine.cpus_per_worker and the like instead"),
    ],
)  # fmt: skip
def test_an_engine_is_asked_for_as_a_whole(engine: str, more: str, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_spec(GOOD.replace("{kind: xgboost}", f"{{kind: xgboost, engine: {engine}{more}}}"), "s.yaml")
    assert said in str(caught.value)


CASES = {
    "unknown key": ("nam: x\n", ["s.yaml:6: nam: unknown key 'nam' -> did you mean 'name'?"]),
    "wrong type": ("seed: much\n", ["s.yaml:6: seed: Input should be a valid integer (value 'much')"]),
    "out of range": ("split: {holdout: 0.9}\n", ["s.yaml:6: split.holdout", "less than or equal to 0.5 (value 0.9)"]),
    "two mistakes": ("seed: -1\nretries: 99\n", ["s.yaml:6: seed", "s.yaml:7: retries"]),
    "nested unknown": (
        "gates: {latency: {p95: 3}}\n",
        ["s.yaml:6: gates.latency.p95: unknown key 'p95' -> did you mean 'p95_ms'?"],
    ),
    "double key": ("name: again\n", ["s.yaml:6: the key 'name' stands twice", "also in line 2"]),
    "wrong metric": ("metric: rmse\n", ["metric rmse is not one of a binary task"]),
    "drop the target": ("", []),
    "slices by the target": ("gates: {slices: {columns: [y]}}\n", ["gates.slices.columns names the target 'y'"]),
    "fairness of nobody": (
        "gates: {slices: {fairness: {demographic_parity_ratio: 0.8}}}\n",
        ["gates.slices.fairness needs gates.slices.columns"],
    ),
    "fairness of a number": (
        "gates: {slices: {columns: [g], fairness: {demographic_parity_ratio: 0.8}}}\n",
        ["gates.slices.fairness is about a yes or no, and the task is regression"],
    ),
}


@pytest.mark.parametrize("case", [name for name in CASES if CASES[name][1]])
def test_a_mistake_is_named_with_its_line(case: str) -> None:
    more, expected = CASES[case]
    with pytest.raises(Invalid) as refused:
        parse_spec((GOOD.replace("binary", "regression") if "regression" in expected[0] else GOOD) + more, "s.yaml")
    for part in expected:
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a spec is a mapping"),
        ("- 1\n", "a spec is a mapping"),
        ("a: [1\n", "not YAML"),
        ("a: &x [*x]\n", "not YAML"),
        ("version: 1\n", "the key 'name' is missing"),
        (GOOD.replace("kind: xgboost", "kind: forest"), "candidates.0"),
        (GOOD.replace("binary", "binry"), "task"),
        (GOOD.replace("demo", "Demo!"), "name"),
        (GOOD.replace("demo", "demo_"), "name"),  # a name is the value of a label, too
        (GOOD.replace("target: y}", "target: y, drop: [y]}"), "the target 'y' is in `drop`"),
        (GOOD.replace("target: y}", "target: y, table: t, query: q}"), "`table` or `query`, not both"),
        (GOOD.replace("name: net", "name: xgboost"), "candidates share the name xgboost"),
    ],
)
def test_what_is_no_spec_is_refused_in_a_sentence(text: str, expected: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_spec(text, "s.yaml")
    assert expected in str(refused.value)
    assert "s.yaml" in str(refused.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="there is no such spec"):
        load_spec(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match="UTF-8"):
        load_spec(tmp_path / "bytes.yaml")


def test_overrides_change_what_one_run_may_change() -> None:
    spec = parse_spec(GOOD, "s.yaml")
    changed = parse_overrides('{"trials": 3, "seed": 1, "source": "other.csv", "budget_s": null}').apply(spec)
    assert [candidate.trials for candidate in changed.candidates] == [3, 3]
    assert (changed.seed, changed.data.source) == (1, "other.csv")
    assert Overrides().apply(spec) == spec
    with pytest.raises(Invalid, match="unknown key 'trails'"):
        parse_overrides('{"trails": 3}')
    with pytest.raises(Invalid):
        parse_overrides("not json")


def test_every_spec_of_the_project_is_valid() -> None:
    for path in (ROOT / "dags" / "specs").glob("*.yaml"):
        assert load_spec(path).name == path.stem


def test_the_schema_beside_the_specs_is_the_one_of_the_code() -> None:
    kept = ROOT / "dags" / "specs" / "schema.json"
    assert kept.read_text(encoding="utf-8") == spec_schema(), "run: slipway spec schema > dags/specs/schema.json"


def test_the_messages_of_an_invalid_spec() -> None:
    """Golden lines, beside each spec: every mistake, in the order of the lines."""
    found, expected = {}, {}
    for path in sorted((CONFS / "invalid").glob("*.yaml")):
        expected[path.name] = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
        try:
            found[path.name] = [f"valid: {load_spec(path).name}"]
        except Invalid as refused:
            found[path.name] = str(refused).replace(str(path), path.name).splitlines()
    assert found
    assert found == expected


def test_a_valid_spec_is_the_same_after_a_round_trip() -> None:
    paths = sorted((CONFS / "valid").glob("*.yaml"))
    assert paths
    different = []
    for path in paths:
        spec = load_spec(path)
        if PipelineSpec.model_validate_json(spec.model_dump_json()) != spec:
            different.append(path.name)
    assert different == []


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(max_size=40), st.text(alphabet="a:{}[]&*!- \n\t'\"#|>?", max_size=30)))
def test_no_text_brings_a_traceback(text: str) -> None:
    with pytest.raises(Invalid):
        parse_spec(text, "fuzz.yaml")
    with pytest.raises(Invalid, match=r"fuzz\.yaml"):
        parse_spec(f"{GOOD}zz: {text}\n", "fuzz.yaml")


@pytest.mark.parametrize(
    "more",
    [
        "gates: {quality: {at_least: {roc_auc: .nan}}}",
        "gates: {quality: {at_most: {log_loss: -.inf}}}",
        "gates: {champion: {margin: .inf}}",
        "gates: {slices: {columns: [g], worst: .nan}}",
        "gates: {slices: {columns: [g], max_gap: .inf}}",
        "gates: {slices: {columns: [g], fairness: {equalized_odds_ratio: .nan}}}",
        "gates: {calibration: {max_error: .inf}}",
        "gates: {parity: {atol: .inf}}",
        "gates: {robustness: {noise: .inf}}",
        "gates: {robustness: {directions: [{column: a, answer: rises, by: .inf}]}}",
        "gates: {judge: {metrics: [{metric: GEval, options: {threshold: .nan}}]}}",
        "gates: {judge: {metrics: [{metric: GEval, options: {deep: [{er: .inf}]}}]}}",
        "gates: {latency: {p95_ms: .inf}}",
        "serving: {rollout: {kind: canary, max_slowdown: .inf}}",
        "export: {rtol: .nan}",
    ],
)
def test_no_number_of_a_spec_is_infinite_or_none(more: str) -> None:
    """JSON has neither, so that what validated could not be read again; and NaN holds no bound."""
    with pytest.raises(Invalid, match=r"s\.yaml:6: .*finite number.*-> "):
        parse_spec(f"{GOOD}{more}\n", "s.yaml")


@pytest.mark.parametrize(
    "more",
    [
        "seed: 99999999999999999999",
        "split: {seed: 99999999999999999999}",
        "gates: {latency: {rate_per_s: 1e12}}",
        "gates: {latency: {rows: 1000000000000}}",
        "gates: {latency: {duration_s: 1e12}}",
        "gates: {champion: {resamples: 1000000000000}}",
        "serving: {max_batch_size: 100000000000}",
        "serving: {max_queue_delay_us: 1000000000000000000000000}",
        "serving: {instances: 1000000}",
        "serving: {threads: 100000000000}",
    ],
)
def test_what_no_machine_has_is_refused(more: str) -> None:
    with pytest.raises(Invalid, match=r"s\.yaml:6: .*less than or equal to"):
        parse_spec(f"{GOOD}{more}\n", "s.yaml")


def test_requests_that_nobody_waits_for() -> None:
    parse_spec(GOOD + "gates: {latency: {rate_per_s: 10000, duration_s: 100}}\n", "s.yaml")
    with pytest.raises(Invalid, match=r"s\.yaml:6: gates.latency: rate_per_s times duration_s is 1,010,000 requests"):
        parse_spec(GOOD + "gates: {latency: {rate_per_s: 10000, duration_s: 101}}\n", "s.yaml")


@pytest.mark.parametrize(("by", "reason"), [(r"\u200b", "measured anew"), (r"\u3164", "measured anew")])
def test_somebody_answers_for_a_waiver(by: str, reason: str) -> None:
    text = GOOD + 'gates: {waivers: [{gate: quality, by: "%s", reason: "%s", until: 2026-12-30}]}\n'
    for who, why in ((by, reason), ("me", by * 10), ("me", r"\x07\u202e" * 10)):
        with pytest.raises(Invalid, match=r"s\.yaml:6: gates.waivers.0.(by|reason): .*(letter|unacceptable|special)"):
            parse_spec(text % (who, why), "s.yaml")
    assert parse_spec(text % ("李", "次の月に測り直すので、これでよい"), "s.yaml").gates.waivers[0].by == "李"


SECRETS = (
    "https://user:hunter2@h/rows.csv",
    "https://hunter2@h/rows.csv",
    "s3://AKIA:hunter2@bucket/x.csv",
    "ftp://u:hunter2@h:21/x.csv",
    "simplecache::https://u:hunter2@h/x.csv",
    "https://h/x.csv?X-Amz-Credential=hunter2&X-Amz-Date=1",
    "https://h/x.csv?X-Amz-Signature=hunter2",
    "https://h/x.csv?X-Amz-Security-Token=hunter2",
    "https://h/x.csv?sv=2024&se=2027&sig=hunter2",
    *(f"https://h/x.csv?a=1&{name}=hunter2" for name in ("auth", "access", "pass", "password", "jwt", "code", "token")),
    "https://h/x.csv?password=hun ter2",
    "https://h/x.csv?subscription-key=hunter2",
    "https://h/x.csv?AWSAccessKeyId=hunter2",
)
HARMLESS = (
    "https://h:8443/rows@v2.csv",
    "https://h:8443/x.csv?mail=me@example.com",
    "sftp://me@h/rows.csv",
    "s3://bucket/key=3/code=7/rows.csv",
    "https://h/x.csv?zipcode=1&country_code=de&passed=1&author=me&accessed=1&tokenizer=bert&max_tokens=5&sv=1&se=2",
    "https://h/secretary/pass/key/x.csv",
    "rows/password=1/x.csv",
)


@pytest.mark.parametrize("source", SECRETS)
def test_a_source_with_a_secret_is_refused(source: str) -> None:
    """A spec is pinned in the store, recorded and signed."""
    with pytest.raises(Invalid, match=r"s\.yaml:4: data: data\.source holds a secret.*AWS_ACCESS_KEY_ID") as refused:
        parse_spec(GOOD.replace("rows.csv", f'"{source}"'), "s.yaml")
    assert "ter2" not in str(refused.value)
    with pytest.raises(Invalid, match=r"data\.source holds a secret"):
        Overrides(source=source).apply(parse_spec(GOOD, "s.yaml"))


@pytest.mark.parametrize("source", HARMLESS)
def test_what_only_looks_like_a_secret_is_none(source: str) -> None:
    assert parse_spec(GOOD.replace("rows.csv", f'"{source}"'), "s.yaml").data.source == source
    if "://" in source:
        assert mask(source) == source
