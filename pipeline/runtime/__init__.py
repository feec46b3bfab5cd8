"""How a stage runs: shards on Beam, a process of its own, progress, one commit."""
