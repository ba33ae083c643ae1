"""Language models: loading, the one forward, the tiled head, prompts in tokens."""
