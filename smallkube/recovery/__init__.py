"""When something is lost for good: bringing it back with what is in keys/ and in the backups."""
