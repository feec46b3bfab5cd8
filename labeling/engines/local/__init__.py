"""Language models that run here."""
