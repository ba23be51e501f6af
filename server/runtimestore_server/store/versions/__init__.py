"""Versions of sessions: stored as what changed, read as whole documents, kept for as long as the operator says."""
