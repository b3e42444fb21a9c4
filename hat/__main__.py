"""``python -m hat`` is the command ``hat``."""

from hat.cli import main

main()
