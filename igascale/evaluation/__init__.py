"""Accuracy in and out of distribution, and how consistent the representations are across domains.

``answers``, ``accuracy`` and ``tables`` are plain Python; ``generation``, ``consistency``, ``loading`` and
``evaluate`` need torch. Nothing is imported here, so that ``--help`` stays quick.
"""
