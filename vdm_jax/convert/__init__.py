"""Weights in and out: the files of other libraries, read without torch, and model directories.

Reading trusts nothing: `source.open_source` is the one door, and behind it no code of a file runs.
"""
