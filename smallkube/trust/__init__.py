"""Certificates that the machines know each other by, replaced while everybody trusts the old and the new one."""
