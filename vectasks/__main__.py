"""``python -m vectasks`` is the command ``vectasks``."""

from vectasks.cli.main import main

raise SystemExit(main())
