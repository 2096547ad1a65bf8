"""The command ``vectasks``: its parser in ``main``, and a module for each subcommand."""
