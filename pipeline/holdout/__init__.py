"""Hold-out numbers of a policy, and whether it may be promoted."""
