"""The verbs of the `sluice` command, one module a family; outermost, beside app.py."""
