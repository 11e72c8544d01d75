"""The key that encrypts Secrets in etcd, and replacing it."""
