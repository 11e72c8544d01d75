"""Backups of etcd: verified on the primary, encrypted, kept, copied, drilled and restored."""
