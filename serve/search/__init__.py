"""Exact search of a gallery."""
