"""A data engine: a vision-language model and SAM2 make questions and masks of raw images (after ConverSeg's).

Each image goes through stages, which are functions over the records of `segzero.data.engine.records`:

regions.py  caption -> boxes -> masks -> refinement against everything -> verdicts -> accepted regions
prompts.py  a numbered overlay -> prompts of five families of concepts -> verdicts -> negatives -> verdicts
runs.py     many images at once, what each stage leaves on disk, and how a stopped run goes on
export.py   run folders, ours or ConverSeg's own -> dataset.jsonl, items.json and parquet
report.py   a page of what was accepted and rejected, why, and what it cost
"""
