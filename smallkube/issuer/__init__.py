"""The key that signs service accounts' tokens, and replacing it."""
