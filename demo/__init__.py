"""The demo: search, compare and look inside, in the browser."""
