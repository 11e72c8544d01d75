"""API tokens: who has which, and replacing them while everybody goes on."""
