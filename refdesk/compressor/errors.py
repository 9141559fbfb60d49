"""What the compressor raises. Every message carries the value at fault and what was expected."""


class CompressorError(Exception):
    """Base of everything this folder raises on purpose."""


class InvalidCompression(CompressorError, ValueError):
    """What cannot be compressed so: an unknown strategy or option, a value out of range, or a missing tool."""
