"""inventory.yaml: its models, reading, validation and editing, and the addresses derived from it."""
