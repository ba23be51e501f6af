"""`runtimestore verify`: is everything in the store what was written, and does it fit together?"""

from runtimestore_server.verify.findings import Finding, Report, Severity
from runtimestore_server.verify.walk import verify

__all__ = ["Finding", "Report", "Severity", "verify"]
