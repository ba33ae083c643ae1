"""A run is a folder: its files, its states, its checkpoints, and what made it."""
