"""Mask models: a question about an image becomes a mask at once, without boxes, points or written answers."""
