"""The rows that are judged: made of their own numbers, so that they are the same at every start."""

from __future__ import annotations

from pathlib import Path

import duckdb

GROUP_ROWS = 122_880
COLUMNS = {  # {k} is a number in [0, 1) that is drawn for this column of this row
    "id": "i::DOUBLE",
    "amount": "round(exp(4 + 1.5 * ({0} + {1} + {2} - 1.5)), 2)",
    "balance": "CASE WHEN {3} < 0.02 THEN NULL ELSE round(10000 * ({4} - 0.2), 2) END",
    "age": "floor(18 + 72 * {5})",
    "rate": "{6}",
    "score": "CASE WHEN {7} < 0.2 THEN NULL ELSE 100 * {8} * {9} END",
    "visits": "floor(40 * {10} * {11})",
    "height": "round(170 + 30 * ({12} + {13} + {14} - 1.5), 1)",
    "weight": "CASE WHEN {15} < 0.05 THEN NULL ELSE round(75 + 50 * ({16} + {17} + {18} - 1.5), 1) END",
    "low": "{19} * 10",
    "high": "{19} * 10 + {20}",
    "active": "({21} < 0.7)::INTEGER::DOUBLE",
    "member": "CASE WHEN {22} < 0.01 THEN NULL ELSE ({23} < 0.3)::INTEGER::DOUBLE END",
    "country": "['AT', 'BE', 'CZ', 'DE', 'ES', 'FR', 'GR', 'HU', 'IT', 'NL', 'PL', 'SE'][1 + floor(12 * {24} * {25})::INTEGER]",
    "plan": "['free', 'basic', 'plus', 'pro'][1 + floor(4 * {26} * {27})::INTEGER]",
    "channel": "CASE WHEN {28} < 0.1 THEN NULL ELSE ['web', 'shop', 'phone'][1 + floor(3 * {29})::INTEGER] END",
    "email": "'user' || floor({30} * greatest(n // 10, 1))::BIGINT || '@example.org'",
    "code": "chr(65 + floor(26 * {31})::INTEGER) || chr(65 + floor(26 * {32})::INTEGER) || '-' || lpad(floor(10000 * {33})::INTEGER::VARCHAR, 4, '0')",
    "opened": "TIMESTAMPTZ '2020-01-01 00:00:00+00' + to_seconds(floor(150000000 * {34}))",
    "closed": "CASE WHEN {35} < 0.6 THEN NULL ELSE TIMESTAMPTZ '2025-01-01 00:00:00+00' + to_seconds(floor(30000000 * {36})) END",
}


def write(path: Path, rows: int) -> None:
    """Write so many rows of the 20 columns as Parquet."""
    drawn = [f"(hash(i * 64 + {k}) >> 11)::DOUBLE / 9007199254740992" for k in range(37)]
    columns = ", ".join(f"{sql.format(*drawn)} AS {name}" for name, sql in COLUMNS.items())
    with duckdb.connect(":memory:") as connection:
        connection.execute(
            f"COPY (SELECT {columns} FROM (SELECT i, {rows} AS n FROM range({rows}) AS r(i))) "
            f"TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE {GROUP_ROWS}, COMPRESSION snappy)"
        )
