"""Benchmarks: every claim is a ratio measured in one run; the JSON carries hardware, versions and commit."""
