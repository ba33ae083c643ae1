"""Several processes that train one cell: their collectives, their devices, their sharded parameters."""
