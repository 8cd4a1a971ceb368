"""The isomer factory: from any bank of problems to verified isomer groups, by a teacher model (docs/factory.md)."""
