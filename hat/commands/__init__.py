"""The subcommands of ``hat``, a file each."""
