"""What the server answers to, a room for each kind; `app` adds them all."""
