"""Benchmarks of the packages, one folder a claim: run one with `python -m benchmarks.<claim>.run`."""
