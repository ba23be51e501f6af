"""One module for each defect of gRPC that is worked around: what it is, the test that holds it, and when it may go."""
