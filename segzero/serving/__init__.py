"""The same walk over HTTP: requests of many clients share batches, and an image is encoded once for all of them.

A request's way: `door` (who may come in, and how much) -> `reading` (and `fetching`) -> `models`, which share what
`sharing` lists through `batching` (or `joining`) -> `writing`, or `streaming` while the answer is being written.

`app` puts it together, each room of `routes` adds its own; `loading` and `run` start it and end it; `client` is the
other side, `ui` the page.
"""
