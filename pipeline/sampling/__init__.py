"""Engines that sample a policy."""
