"""Training recipes of the models that ship with the package; `python -m segzero.tiny` trains them again."""
