"""Rewards: each judges completions against their prompts' gold answers and says so in verdicts."""
