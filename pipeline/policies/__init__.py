"""Which policy is whose, and where trained models lie."""
