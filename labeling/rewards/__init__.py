"""Recipes: many labels -> one reward."""
