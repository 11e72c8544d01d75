"""The cluster's secrets: which there are and who may read them, making, encrypting, checking and editing them."""
