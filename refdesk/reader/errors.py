"""What the reader raises. Every message carries the value at fault and what was expected."""


class ReaderError(Exception):
    """Base of everything this folder raises on purpose."""


class ModelNotFound(ReaderError):
    """The weights are not where they were looked for; the message says what to install or set."""


class InvalidOption(ReaderError, ValueError):
    """An option has a value that cannot be served."""

    def __init__(self, option: str, value: object, expected: str) -> None:
        super().__init__(f"{option} is {value!r}; expected {expected}")
        self.option = option
        self.value = value
        self.expected = expected


class PromptTooLong(ReaderError):
    """What is read and what comes behind it, such as a prompt and the room kept for its answer, exceed the model's
    window. All numbers are tokens."""

    def __init__(
        self,
        prompt_tokens: int,
        max_new_tokens: int,
        window: int,
        what: str = "the prompt",
        behind: str = "the answer may take",
    ) -> None:
        super().__init__(
            f"{what} takes {prompt_tokens} tokens and {behind} {max_new_tokens},"
            f" together more than the model's window of {window}"
        )
        self.prompt_tokens = prompt_tokens
        self.max_new_tokens = max_new_tokens
        self.window = window


class MemoryTooSmall(ReaderError):
    """A request can never fit the memory that the engine may use. Sizes in bytes."""

    def __init__(self, needed: int, ceiling: int) -> None:
        super().__init__(
            f"the request needs up to {needed / 2**20:.1f} MiB of KV memory, the engine may use"
            f" {ceiling / 2**20:.1f} MiB; expected a shorter prompt, fewer passages, or a policy that holds less"
        )
        self.needed = needed
        self.ceiling = ceiling


class DeadlineExceeded(ReaderError):
    """The time allowed was over before the first word of an answer."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"no answer within the {deadline_s:g} s allowed")
        self.deadline_s = deadline_s


class Interrupted(ReaderError):
    """What the engine was asked for on the way to an answer has ended before it was there."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the engine ended what it was asked for before it was done: {reason}")
        self.reason = reason


class EngineClosed(ReaderError):
    """The engine takes no more requests."""


class AdapterNotFound(ReaderError):
    """There is no adapter of that name, or it cannot be read; the message says which and why."""


class AdapterMismatch(ReaderError):
    """The adapter was trained for another model, or this model cannot take it; the message says why."""


class MemoryMismatch(ReaderError):
    """The memory of a document was made by another model, adapter or instructions; the message says which."""


class HeadsNotFound(ReaderError):
    """There are no heads where they were looked for, or they cannot be read; the message says where and why."""


class HeadsMismatch(ReaderError):
    """Heads are for another model or adapter, or have other shapes; the message says which."""
