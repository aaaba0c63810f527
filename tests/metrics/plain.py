"""The plain evaluator and the generated sets of the benchmark, as an oracle."""

from transformers_msstsvis.benchmarks import metric as benchmark

generate, plain_evaluate = benchmark.generate, benchmark.plain_evaluate
