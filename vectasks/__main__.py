"""``python -m vectasks`` is the command ``vectasks``."""

from vectasks.cli import main

raise SystemExit(main())
