"""What a response is worth: numpy and scipy only, so that a reward imports in milliseconds.

>>> from rewards.matching import matched_iou
>>> matched_iou([(0, 0, 10, 10)], [(0, 0, 10, 5)])
0.5
"""
