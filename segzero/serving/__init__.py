"""The same walk over HTTP: requests of many clients share batches, and an image is encoded once for all of them.

A request's way: `door` (who may come in, and how much) -> `reading` -> `models` through `batching` -> `writing`.
`app` says what is where, `run` starts and ends it, `client` is the other side.
"""
