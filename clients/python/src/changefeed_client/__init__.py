"""A consumer of the change-feed gateway that resumes where it stopped."""
