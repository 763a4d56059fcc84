"""Triton programs. Importing a module of this folder imports Triton.

A program's tensors are pointers and strides; names in capitals are constants that a program is compiled for.
"""
