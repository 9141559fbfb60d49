"""Refdesk: a reference desk for long private documents."""

__version__ = "0.1.0"
