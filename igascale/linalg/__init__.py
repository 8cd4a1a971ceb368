"""Pure tensor functions: contrasts of the reconstructed gradient, tiles, streaming projection, factor extraction.

Nothing here knows hooks, models or other ranks. Every function works on a batch of N adapters of one shape.
"""
