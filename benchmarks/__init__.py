"""Measurements and drills; run each as ``python -m benchmarks.NAME`` from the repository's root."""
