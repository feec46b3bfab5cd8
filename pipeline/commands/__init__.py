"""The `roundhouse` commands, a file for each family."""
