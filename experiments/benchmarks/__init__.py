"""Benchmarks: measurements, and their recorded results."""
