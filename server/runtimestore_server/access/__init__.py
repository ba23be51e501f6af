"""Who may come in: certificates, tokens, and the rules by which callers are let into methods and realms."""
