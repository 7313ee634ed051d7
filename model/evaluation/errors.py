"""What evaluation refuses to do."""


class EvaluationError(ValueError):
    """A run that can't be made as it was asked for; the message says why and what would do."""
