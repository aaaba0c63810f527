"""The plain evaluator and the generated sets of the benchmark, as an oracle."""

import importlib.util
from pathlib import Path

_specification = importlib.util.spec_from_file_location(
    "benchmark_metric", Path(__file__).parents[2] / "scripts" / "benchmarks" / "metric.py"
)
benchmark = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(benchmark)
generate, plain_evaluate = benchmark.generate, benchmark.plain_evaluate
