"""Bridges to libraries of others, each imported only where it is used."""
