"""What a run needs before it is started: memory, bytes on the wire, time; behind ``igascale plan``.

``cluster`` describes the machines, ``shapes`` the model and ``batch`` the step; ``dry_run`` runs one micro-batch without numbers;
``memory``, ``wire``, ``hook_cost`` and ``timing`` are the formulas, ``verdict`` says what to do, ``report`` prints.
"""
