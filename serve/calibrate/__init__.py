"""Thresholds with a false match rate."""
