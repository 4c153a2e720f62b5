"""Recipes of the models that ship with the package; `python -m segzero.tiny` makes them anew."""
