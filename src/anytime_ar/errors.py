"""The errors that callers may catch.

Every message names the value that came, what was expected, and the next step. `InputError` is a
`ValueError` so that library users need not know this module; the command line turns it into one
line and exit code 2.
"""


class AnytimeError(Exception):
    """Base class of every error that anytime-ar raises on purpose."""


class InputError(AnytimeError, ValueError):
    """What the caller passed cannot be used: an argument, a configuration value, a prefix
    length."""


class DataError(InputError):
    """A data set cannot be read: a path, a file inside it, or the shape of its samples."""


class BundleError(InputError):
    """A model folder is refused: unknown version, missing or altered file, or not a bundle."""


class MissingExtraError(InputError):
    """An optional dependency is needed; the message gives the `pip install` that brings it."""


class TrainingError(AnytimeError):
    """Training cannot go on (a loss that is not finite, say); the last good checkpoint is kept."""


class ProcessGoneError(TrainingError):
    """Another process of the same run has ended, of itself or not; this one cannot go on alone."""


class ToldElsewhereError(AnytimeError):
    """Another process of the same run says what is wrong, and says it once."""


class BulkError(AnytimeError):
    """A bulk job cannot go on; complete shards are kept, and the same job continues after them."""
