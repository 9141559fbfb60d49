"""What the memory raises. Every message carries the value at fault and what was expected."""


class MemoryFault(Exception):
    """Base of everything this folder raises on purpose."""


class OutOfBlocks(MemoryFault):
    """The pool has fewer free blocks than were asked for; nothing was taken."""

    def __init__(self, wanted: int, free: int, total: int) -> None:
        super().__init__(f"{wanted} blocks were asked for, {free} of {total} are free")
        self.wanted = wanted
        self.free = free
        self.total = total


class InvalidMemory(MemoryFault, ValueError):
    """The memory options of a request: an unknown policy or option, or a value out of range."""


class UnsupportedAttention(MemoryFault):
    """The model asks its attention for something that the store does not do."""
