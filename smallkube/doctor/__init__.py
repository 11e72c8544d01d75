"""What is installed here, what is missing, for which task that matters, and how to get it."""
