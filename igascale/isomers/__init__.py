"""Logical isomers: one reasoning DAG told in the words of several domains."""
