"""Kubernetes as its API server reports it, asked by kubectl on the primary."""
