"""What the pages show: cards, tables and styles."""
