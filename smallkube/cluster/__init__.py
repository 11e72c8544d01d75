"""The cluster as a whole: what state it is in, how to get in, whether it may be upgraded."""
