"""What a run is: ids, codec, errors, retry policy and replay, with no Redis, clock, random or I/O."""
