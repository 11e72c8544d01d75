"""What every other package stands on: errors, files, workspace, processes, terminal output."""
