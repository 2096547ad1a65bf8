"""Lets PufferLib 3.0.0 be built without its environments, which its setup.py takes for granted."""

import builtins

builtins.c_extension_paths = []  # type: ignore[attr-defined]
