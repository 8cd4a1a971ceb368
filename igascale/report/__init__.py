"""``igascale report``: what runs did and how well they answer, as one page and as files for a paper.

``collect.py`` reads run folders into plain data, ``figures/`` and ``tabulate.py`` say what is shown of it, ``page.py`` and ``images.py``
draw it, ``write.py`` puts the files where they belong. Nothing here imports torch.
"""
