"""The reproducibility kit: a sweep as one file, its verification, and a paper's checklist."""
