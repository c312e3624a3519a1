"""The worker of one partition."""
