"""Great Expectations on pandas or on Spark. Imports nothing of Slipway."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

os.environ["GX_ANALYTICS_ENABLED"] = "false"
logging.disable(logging.WARNING)

import great_expectations as gx
import pandas as pd
from great_expectations.expectations import registry


def main(path: str, threads: int, suite: str, engine: str) -> None:
    begin = time.perf_counter()
    items = json.loads(Path(suite).read_text(encoding="utf-8"))["expectations"]
    built = [
        registry.get_expectation_impl(one["type"])(**one["kwargs"], meta={"place": at}) for at, one in enumerate(items)
    ]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    if engine == "pandas":
        frame = pd.read_parquet(path)
        asset = context.data_sources.add_pandas("rows").add_dataframe_asset("all")
    else:
        from pyspark.sql import SparkSession

        builder = SparkSession.builder.master(f"local[{threads}]").config("spark.driver.memory", "8g")
        builder = builder.config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")
        spark = builder.config("spark.sql.session.timeZone", "UTC").config("spark.log.level", "ERROR").getOrCreate()
        frame = spark.read.parquet(path).persist()
        asset = context.data_sources.add_spark("rows").add_dataframe_asset("all")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    form = {"result_format": "BASIC", "partial_unexpected_count": 3}
    result = batch.validate(gx.ExpectationSuite(name="bench", expectations=built), result_format=form).to_json_dict()
    found = sorted(result["results"], key=lambda one: one["expectation_config"]["meta"]["place"])
    print(json.dumps({"judging_s": time.perf_counter() - begin, "verdicts": [bool(one["success"]) for one in found]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
