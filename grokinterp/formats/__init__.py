"""Formats: models and runs of others as run folders, and our runs in the forms that others read.

Each format of other people's files has a module of its own with two functions: `find` lists the models at a place, and
`read` returns one of them as an `Imported`. Everything that is not ours is opened in `files`, which executes nothing.
"""
