"""`python in_process.py ENGINE MODEL ROWS CLIENTS SECONDS THREADS`: a library asked by threads of this process, in a closed loop.

Imports NumPy and the library alone, so that its memory is what a program pays. Prints JSON: requests, their pace,
percentiles in milliseconds, and MiB of the process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil

WARM_UP_S = 0.3


def _onnxruntime(model: str, rows: np.ndarray, threads: int) -> Callable[[], object]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session, tensors = ort.InferenceSession(model, options), {"numeric": rows}
    return lambda: session.run(None, tensors)


def _xgboost(model: str, rows: np.ndarray, threads: int) -> Callable[[], object]:
    import xgboost

    booster = xgboost.Booster(params={"nthread": threads})
    booster.load_model(model)
    return lambda: booster.inplace_predict(rows)


def main() -> None:
    engine, model, rows, clients, seconds, threads = sys.argv[1:]
    ask = {"onnxruntime": _onnxruntime, "xgboost": _xgboost}[engine](model, np.load(rows), int(threads))
    begin = time.perf_counter() + WARM_UP_S
    end = begin + float(seconds)

    def client(_: int) -> list[tuple[float, float]]:
        took = []
        while (start := time.perf_counter()) < end:
            ask()
            if start >= begin:
                took.append((start, time.perf_counter()))
        return took

    with ThreadPoolExecutor(int(clients)) as pool:
        took = np.array([one for part in pool.map(client, range(int(clients))) for one in part]).reshape(-1, 2)
    memory = psutil.Process().memory_full_info().pss / 2**20
    if not len(took):
        raise SystemExit(f"no answer in {seconds} s")
    p50, p99 = np.percentile((took[:, 1] - took[:, 0]) * 1000, [50, 99])
    per_s = len(took) / (took[:, 1].max() - begin)
    print(json.dumps({"requests": len(took), "per_s": per_s, "p50_ms": p50, "p99_ms": p99, "memory_mib": memory}))


if __name__ == "__main__":
    main()
