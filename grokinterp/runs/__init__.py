"""A training as a folder on disk: `run` reads it, `writer` fills it, `verification` checks it.

Nothing is imported here: `grokinterp --help` reads `runs.files`, and must not wait for PyTorch.
"""
