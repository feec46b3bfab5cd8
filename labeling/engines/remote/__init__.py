"""Language models behind an endpoint: calls, limits, money, kept answers."""
