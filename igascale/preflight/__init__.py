"""``igascale doctor``: what usually goes wrong between hosts, looked for before it costs a night.

:mod:`~igascale.preflight.examine` talks to one ``python -m igascale.preflight`` on every host. Each further file is a family of
checks in two halves: functions that run on a host and return plain facts, and pure functions that judge the facts of all hosts.
"""
