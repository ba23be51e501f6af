"""What RuntimeStore is measured beside: the service as most would write it, with SQLAlchemy's asyncio."""
