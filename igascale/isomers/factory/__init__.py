"""The isomer factory: from any bank of problems to verified logical isomer sets, told by a teacher model (docs/factory.md)."""
