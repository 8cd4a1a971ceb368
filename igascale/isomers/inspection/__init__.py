"""Looking at groups: side by side in the terminal, or as one page with their graphs drawn (docs/inspect.md)."""
