"""Language models: loading, the one forward, the head read by chunks, prompts in tokens."""
