"""What can go wrong while an adapter is made."""


class CraftError(Exception):
    """Base of the errors of this folder."""


class InvalidRecipe(CraftError):
    """A setting that cannot be used; the message names it, its value and what was expected."""


class InvalidLessons(CraftError):
    """Lessons that cannot be read or trained on; the message says where and why."""


class LessonTooLong(InvalidLessons):
    """A lesson does not fit the model's window."""


class AdapterExists(CraftError):
    """The name is taken."""


class HeadsExist(CraftError):
    """There is something already where retaining heads were to be written."""


class AdapterBusy(CraftError):
    """An adapter that cannot be removed now; the message says why."""
