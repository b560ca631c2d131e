"""The suite that all judge: 50 expectations, of which 7 fail. For those whose bound depends on them, `rows` is known."""

from __future__ import annotations

from typing import Any


def expectations(rows: int) -> list[dict[str, Any]]:
    """In Great Expectations' JSON."""
    countries = ["AT", "BE", "CZ", "DE", "ES", "FR", "GR", "HU", "IT", "NL", "PL", "SE"]
    found: list[tuple[str, dict[str, Any]]] = [
        ("table_row_count_to_be_between", {"min_value": rows // 2, "max_value": rows * 2}),
        ("table_column_count_to_equal", {"value": 20}),
        ("column_values_to_not_be_null", {"column": "id"}),
        ("column_values_to_not_be_null", {"column": "amount"}),
        ("column_values_to_not_be_null", {"column": "age"}),
        ("column_values_to_not_be_null", {"column": "balance", "mostly": 0.95}),
        ("column_values_to_not_be_null", {"column": "score", "mostly": 0.9}),  # 20% are missing
        ("column_values_to_not_be_null", {"column": "weight", "mostly": 0.9}),
        ("column_values_to_not_be_null", {"column": "channel", "mostly": 0.85}),
        ("column_values_to_not_be_null", {"column": "opened"}),
        ("column_values_to_not_be_null", {"column": "closed", "mostly": 0.3}),
        ("column_values_to_be_between", {"column": "age", "min_value": 18, "max_value": 90}),
        ("column_values_to_be_between", {"column": "amount", "min_value": 0, "max_value": 300}),  # some are above
        ("column_values_to_be_between", {"column": "balance", "min_value": -2000, "max_value": 8000}),
        ("column_values_to_be_between", {"column": "rate", "min_value": 0, "max_value": 1, "strict_max": True}),
        ("column_values_to_be_between", {"column": "score", "min_value": 0, "max_value": 90, "mostly": 0.95}),
        ("column_values_to_be_between", {"column": "visits", "min_value": 0}),
        ("column_values_to_be_between", {"column": "height", "min_value": 150, "max_value": 190, "mostly": 0.995}),  # too few
        ("column_values_to_be_between", {"column": "weight", "min_value": 0, "max_value": 151}),
        ("column_values_to_be_between", {"column": "low", "max_value": 10}),
        ("column_values_to_be_in_set", {"column": "country", "value_set": countries}),
        ("column_values_to_be_in_set", {"column": "plan", "value_set": ["free", "basic", "plus"]}),  # one is not in it
        ("column_values_to_be_in_set", {"column": "channel", "value_set": ["web", "shop", "phone"]}),
        ("column_values_to_be_in_set", {"column": "active", "value_set": [0, 1]}),
        ("column_values_to_be_in_set", {"column": "member", "value_set": [0, 1]}),
        ("column_values_to_not_be_in_set", {"column": "country", "value_set": ["XX", ""]}),
        ("column_values_to_match_regex", {"column": "email", "regex": "^[a-z0-9]+@example[.]org$"}),
        ("column_values_to_match_regex", {"column": "code", "regex": "^[A-Y]"}),  # Z there is
        ("column_values_to_match_regex", {"column": "country", "regex": "^[A-Z]{2}$"}),
        ("column_value_lengths_to_equal", {"column": "code", "value": 7}),
        ("column_value_lengths_to_be_between", {"column": "email", "min_value": 10, "max_value": 40}),
        ("column_value_lengths_to_be_between", {"column": "plan", "min_value": 3, "max_value": 5}),
        ("column_values_to_be_unique", {"column": "id"}),
        ("column_values_to_be_unique", {"column": "email", "mostly": 0.5}),  # ten rows have the same
        ("column_unique_value_count_to_be_between", {"column": "country", "min_value": 10, "max_value": 12}),
        ("column_proportion_of_unique_values_to_be_between", {"column": "code", "min_value": 0, "max_value": 1}),
        ("column_distinct_values_to_equal_set", {"column": "plan", "value_set": ["free", "basic", "plus", "pro"]}),
        ("column_distinct_values_to_be_in_set", {"column": "channel", "value_set": ["web", "shop", "phone"]}),
        ("column_most_common_value_to_be_in_set", {"column": "plan", "value_set": ["free"]}),
        ("column_min_to_be_between", {"column": "id", "min_value": 0, "max_value": 0}),
        ("column_max_to_be_between", {"column": "age", "min_value": 80, "max_value": 90}),
        ("column_mean_to_be_between", {"column": "age", "min_value": 50, "max_value": 57}),
        ("column_mean_to_be_between", {"column": "active", "min_value": 0.65, "max_value": 0.75}),
        ("column_mean_to_be_between", {"column": "balance", "min_value": 2500, "max_value": 3500}),
        ("column_stdev_to_be_between", {"column": "rate", "min_value": 0.3, "max_value": 0.4}),  # it is 0.289
        ("column_stdev_to_be_between", {"column": "height", "min_value": 5, "max_value": 20}),
        ("column_sum_to_be_between", {"column": "visits", "min_value": 0, "max_value": rows * 40}),
        ("column_median_to_be_between", {"column": "amount", "min_value": 40, "max_value": 70}),
        ("column_quantile_values_to_be_between", {"column": "rate", "quantile_ranges": {"quantiles": [0.05, 0.5, 0.95], "value_ranges": [[0, 0.1], [0.4, 0.6], [0.9, 1]]}}),
        ("column_pair_values_a_to_be_greater_than_b", {"column_A": "high", "column_B": "low", "or_equal": True}),
    ]  # fmt: skip
    return [{"type": f"expect_{kind}", "kwargs": kwargs, "severity": "critical"} for kind, kwargs in found]
