"""The handlers of each gRPC service: check, run, answer."""
