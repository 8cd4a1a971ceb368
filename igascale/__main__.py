"""``python -m igascale``: the same as the ``igascale`` command."""

from igascale.cli import main

main()
