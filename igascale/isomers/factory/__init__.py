"""From a bank of problems to verified logical isomer sets: `igascale data build` (docs/factory.md)."""
