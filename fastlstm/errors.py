"""The exceptions of fastlstm that Python does not already have.

Everything else follows ``ValueError`` / ``TypeError`` / ``OSError`` as Keras and NumPy raise them; a message
names the argument (or the file), what was expected and what came.
"""


class DeviceError(RuntimeError):
    """A device was asked for by name and cannot be used; the message gives the reason."""
