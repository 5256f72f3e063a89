"""A part of the settings: what all of them share."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One group of settings; what it does not know is refused."""

    # An input in an error of pydantic's own could be a secret.
    # Built as parts of the settings, and not each by itself besides.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)
