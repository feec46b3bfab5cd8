"""The tests; rooms mirror the source tree."""
