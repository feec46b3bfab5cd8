"""Benchmarks: ratios measured side by side in one run, printed, never asserted.

    python -m tests.benchmarks [NAME ...]        all of them, or the named ones; `make bench`

Each is a module with a `main` and runs in a process of its own. Not here: tests; nothing fails
because a machine is slow.
"""
