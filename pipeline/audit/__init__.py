"""The human audit: sample, sheet, verdicts, agreement."""
