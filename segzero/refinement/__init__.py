"""A policy that looks at a mask and keeps or corrects it: the picture, the actions, the training data, the pipeline."""
