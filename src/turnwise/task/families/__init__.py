"""Families of arithmetic problems, each with its gold answer and reference programs."""
