"""What runs under compute-sanitizer: every kernel once, `python -m transformers_msstsvis.benchmarks.gpu.sanitized`."""

from .checks import check_every_kernel

if __name__ == "__main__":
    check_every_kernel("cuda")
