from __future__ import annotations


class UserError(ValueError):
    """A mistake in data, config or command that the user can mend.

    Its text says what was expected, what was found, where, and what to do.
    """
