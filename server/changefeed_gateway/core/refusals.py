"""What a provider's service refused, before it is one of our errors."""


class ForTheCaller(Exception):
    """What the service said is an error only in the eyes of who asked."""


class Refusal(Exception):
    """What may be logged of a refusal, without the service's text: the cause of the error that the caller gets."""
