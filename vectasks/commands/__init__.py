"""Subcommands of ``vectasks``, a module each: ``register`` adds its arguments to the parser."""
