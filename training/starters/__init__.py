"""Small models built from scratch for the demo and the tests."""
