"""Statistics of arrays: intervals, bootstraps, paired tests, corrections and power. Knows nothing of runs."""
