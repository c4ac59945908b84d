"""What goes wrong with an archive."""


class ArchiveError(Exception):
    """One sentence: what is wrong with the archive or with the place where it lies."""
