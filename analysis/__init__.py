"""From run folders to tables. Never imports torch."""
