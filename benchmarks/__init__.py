"""Benchmarks: the workloads by name (``cases``) and the program that times them (``bench``). Not part of the wheel."""
