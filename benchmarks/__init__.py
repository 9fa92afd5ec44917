"""Benchmarks: how quickly cxrd works, beside the naive worker and stage by stage (see README.md)."""
