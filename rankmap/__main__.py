"""``python -m rankmap`` is ``rankmap``."""

from rankmap.cli import main

main()
