"""The processes that do the work: an RQ worker with an asyncio loop of its own."""
