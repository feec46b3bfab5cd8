"""What is behind a number, a row, a file or a policy."""
