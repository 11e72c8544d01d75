"""Snapshots of etcd: taken and proven on the primary, kept here encrypted, rehearsed and put back."""
