"""Backups of a node: one compressed tar stream per backup, checked when it is made and whenever it is read."""
