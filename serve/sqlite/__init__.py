"""Galleries in a SQLite file."""
