"""The runs: read from folders or W&B, kept as one export; and the papers' published numbers."""
