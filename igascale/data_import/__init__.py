"""Other people's rows -> isomer groups: ``records`` reads files, ``columns`` finds the fields, ``texts`` takes prompt, solution and
answer apart, ``grouping`` puts rows together outside memory, and ``convert`` is all of it (docs/data.md)."""
