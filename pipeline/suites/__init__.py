"""Files of texts and evaluation suites, outside a round."""
