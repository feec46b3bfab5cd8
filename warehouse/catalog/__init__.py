"""A version of the warehouse as DuckDB views."""
