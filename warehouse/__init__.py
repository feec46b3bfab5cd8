"""Tables on a disk or on S3: schemas, store, ledger, publish, catalog.

Knows nothing of models, Beam or rounds.
"""
