"""Commands of galleries and of the service."""
