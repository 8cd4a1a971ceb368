"""The figures of the report: each function takes collected runs and returns :class:`~igascale.report.figures.frame.Figure` objects."""
