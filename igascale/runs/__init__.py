"""Looking at run folders, finished or not, from outside: ``igascale runs``. Nothing here writes, or imports torch."""
