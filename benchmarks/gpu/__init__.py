"""What `benchmarks/gpu.py` measures: a module a section, and the table that they write."""
