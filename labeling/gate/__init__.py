"""What a night's labels must show before training."""
