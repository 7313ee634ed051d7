"""The `emmdit` command: one file a command, and what they share. `app.py` has them all."""
