"""Lets callers in: certificates, tokens, and the rules that say which methods and realms are open to whom."""
