"""What the suite asks, as one would ask it of DuckDB by hand. Imports nothing of Slipway."""

from __future__ import annotations

import json
import sys
import time

import duckdb

SCAN = """
SELECT count(*),
  count(id), count(amount), count(age), count(balance), count(score), count(weight), count(channel), count(opened),
  count(closed), count(height),
  count(*) FILTER (age < 18 OR age > 90),
  count(*) FILTER (amount < 0 OR amount > 300),
  count(*) FILTER (balance < -2000 OR balance > 8000),
  count(*) FILTER (rate < 0 OR rate >= 1),
  count(*) FILTER (score < 0 OR score > 90),
  count(*) FILTER (visits < 0),
  count(*) FILTER (height < 150 OR height > 190),
  count(*) FILTER (weight < 0 OR weight > 151),
  count(*) FILTER (low > 10),
  count(*) FILTER (country NOT IN ('AT', 'BE', 'CZ', 'DE', 'ES', 'FR', 'GR', 'HU', 'IT', 'NL', 'PL', 'SE')),
  count(*) FILTER (plan NOT IN ('free', 'basic', 'plus')),
  count(*) FILTER (channel NOT IN ('web', 'shop', 'phone')),
  count(*) FILTER (active NOT IN (0, 1)),
  count(*) FILTER (member NOT IN (0, 1)),
  count(*) FILTER (country IN ('XX', '')),
  count(*) FILTER (NOT regexp_matches(email, '^[a-z0-9]+@example[.]org$')),
  count(*) FILTER (NOT regexp_matches(code, '^[A-Y]')),
  count(*) FILTER (NOT regexp_matches(country, '^[A-Z]{2}$')),
  count(*) FILTER (length(code) <> 7),
  count(*) FILTER (length(email) < 10 OR length(email) > 40),
  count(*) FILTER (length(plan) < 3 OR length(plan) > 5),
  min(id), max(age), avg(age), avg(active), avg(balance), stddev_samp(rate), stddev_samp(height), sum(visits),
  quantile_cont(amount, 0.5), quantile_disc(rate, [0.05, 0.5, 0.95]),
  count(*) FILTER (high < low)
FROM read_parquet(?)
"""
GROUPS = "SELECT count(*), sum(n) FILTER (n > 1) FROM (SELECT {0}, count(*) AS n FROM read_parquet(?) WHERE {0} IS NOT NULL GROUP BY {0})"
VALUES = "SELECT {0}, count(*) AS n FROM read_parquet(?) WHERE {0} IS NOT NULL GROUP BY {0} ORDER BY n DESC"


def main(path: str, threads: int) -> None:
    begin = time.perf_counter()
    with duckdb.connect(":memory:", config={"threads": threads}) as connection:
        connection.execute("SET enable_progress_bar = false")

        def ask(query: str) -> list[tuple]:  # type: ignore[type-arg]
            return connection.execute(query, [path]).fetchall()

        (
            rows, ids, amounts, ages, balances, scores, weights, channels, opened, closed, heights, age, amount, balance,
            rate, score, visits, height, weight, low, country, plan, channel, active, member, not_country, email, code,
            country_form, code_length, email_length, plan_length, id_min, age_max, age_mean, active_mean, balance_mean,
            rate_stdev, height_stdev, visits_sum, amount_median, rates, pair,
        ) = ask(SCAN)[0]  # fmt: skip
        columns = len(ask("DESCRIBE SELECT * FROM read_parquet(?)"))
        (_, id_doubled), (_, email_doubled) = ask(GROUPS.format("id"))[0], ask(GROUPS.format("email"))[0]
        countries, plans, all_channels = (ask(VALUES.format(name)) for name in ("country", "plan", "channel"))
        codes = ask(GROUPS.format("code"))[0][0]
    verdicts = [
        rows > 0, columns == 20, ids == rows, amounts == rows, ages == rows, balances / rows >= 0.95, scores / rows >= 0.9,
        weights / rows >= 0.9, channels / rows >= 0.85, opened == rows, closed / rows >= 0.3, age == 0, amount == 0,
        balance == 0, rate == 0, score <= 0.05 * scores, visits == 0, height <= 0.005 * heights, weight == 0, low == 0,
        country == 0, plan == 0, channel == 0, active == 0, member == 0, not_country == 0, email == 0, code == 0,
        country_form == 0, code_length == 0, email_length == 0, plan_length == 0, not id_doubled,
        (email_doubled or 0) <= 0.5 * rows, 10 <= len(countries) <= 12, 0 <= codes / rows <= 1,
        {one for one, _ in plans} == {"free", "basic", "plus", "pro"}, {one for one, _ in all_channels} <= {"web", "shop", "phone"},
        plans[0][0] == "free", id_min == 0, 80 <= age_max <= 90, 50 <= age_mean <= 57, 0.65 <= active_mean <= 0.75,
        2500 <= balance_mean <= 3500, 0.3 <= rate_stdev <= 0.4, 5 <= height_stdev <= 20, 0 <= visits_sum <= 40 * rows,
        40 <= amount_median <= 70, rates[0] <= 0.1 and 0.4 <= rates[1] <= 0.6 and rates[2] >= 0.9, pair == 0,
    ]  # fmt: skip
    print(json.dumps({"judging_s": time.perf_counter() - begin, "verdicts": verdicts}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
