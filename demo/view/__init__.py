"""Content of the pages: cards, tables and styles."""
