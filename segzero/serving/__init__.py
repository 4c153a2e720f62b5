"""HTTP server: requests of many clients share batches, and an image is encoded once for all of them.

The way of a request: `middleware` admits it, `requests` reads it, a router of `routes` answers it with the models of
`model_pool`, which share batches through `batching`, and `responses` (or `streaming`) writes the answer. `app` puts
these together, `server` runs them as a process, `client` is a client in Python, `ui` a web page.
"""
