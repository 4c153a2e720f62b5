"""Pictures, charts and HTML pages made of plain values; nothing here imports a result or a model."""
