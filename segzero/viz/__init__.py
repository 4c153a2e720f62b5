"""Pictures, charts and HTML pages of plain values; nothing here imports a result or a model."""
