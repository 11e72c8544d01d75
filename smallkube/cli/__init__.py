"""The command line: a module for each namespace of tasks, which parse flags, ask for confirmation and print."""
